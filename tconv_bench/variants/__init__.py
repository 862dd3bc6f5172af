"""One file per algorithm; ``tconv_bench.registry`` imports every file here whose name has no leading underscore."""
