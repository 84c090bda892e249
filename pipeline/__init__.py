"""GLOT: one good vector or label a text from a frozen language model, in two stages.

Stage one runs the frozen backbone once over each distinct text and keeps its token states on
disk; stage two trains a small head over them. Text flows one way through five rooms:

    corpus -> extract -> store -> fit -> report

`import pipeline` is light: each room imports what it needs when it is used.
"""

__version__ = "0.1.0"
