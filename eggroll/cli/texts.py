"""What the help of commands says at length."""

SETTINGS_HELP = """\
Every setting of the file can be given here too, by its last name, or dotted where that
is not unique: --population 8192 --sigma 0.1 --optimizer sgd --optimizer.b1 0.95
`eggroll info CONFIG` lists them all.
"""
SPEAKER_HELP = """\
With --model, a checkpoint of a language model answers instead: a directory as Hugging
Face's, a GGUF file, or an RWKV-7. It has options of its own:
    eggroll sample --model FILE_OR_DIR --help
"""
CACHE_HELP = """\
What a command compiles is kept for the next one, in ~/.cache/eggroll/compiled, at most
1 GiB. EGGROLL_CACHE=DIR keeps it elsewhere, JAX_ENABLE_COMPILATION_CACHE=0 nowhere.
"""
COMPLETION_HELP = """\
For bash, once for all:
    mkdir -p ~/.local/share/bash-completion/completions
    eggroll completion bash > ~/.local/share/bash-completion/completions/eggroll
For zsh, into a directory of $fpath: eggroll completion zsh > DIR/_eggroll
"""
