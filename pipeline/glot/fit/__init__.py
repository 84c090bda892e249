"""Stage two: a small graph head over cached token states. Needs no language model, no hub and, off DGL, no DGL."""
