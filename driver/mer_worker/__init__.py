"""The far side of MER: loads one model and answers for it. Standard library only, Python 3.9 and later."""
