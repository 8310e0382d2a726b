"""Errors of the operating system in words that say what to do."""

import errno
import os


REMEDIES = {
    errno.EACCES: "allow it, or choose another place with --output",
    errno.EDQUOT: "make room; what was saved before stays",
    errno.EISDIR: "move the folder that is in its place away",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENOENT: "is the path right?",
    errno.ENOSPC: "make room; what was saved before stays",
    errno.ENOTDIR: "move the file that is in a folder's place away",
    errno.EROFS: "allow it to be written, or choose another place with --output",
}


def in_words(error: OSError) -> str:
    """What happened to which file, and what to do where that can be known."""
    if error.errno is None:
        return str(error)
    files = (error.filename2 or error.filename, error.strerror)
    words = [str(one) for one in files if one]
    words.append(REMEDIES.get(error.errno, ""))
    return ": ".join(filter(None, words)) or os.strerror(error.errno)
