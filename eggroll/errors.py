"""The one exception that stands for a mistake the user can mend."""


class UserError(ValueError):
    """A wrong setting, file or task, with a message that says how to mend it.

    The command line shows the message alone; every other exception is a fault of the
    library or of the task, and keeps its traceback.
    """
