"""``tconv-bench gpu-check``: on a machine with an NVIDIA GPU, tests, limits, and every layer beside cuDNN, in minutes.

``session`` decides what is done in the time there is and turns answers into rows; ``lab`` checks and times, in a process of its
own; only ``device`` touches a GPU, and ``standin`` takes its place in a dry run. ``preflight`` says what is missing before any
work and imports nothing but Python's own library.
"""
