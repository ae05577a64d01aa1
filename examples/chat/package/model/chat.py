"""A conversation over the line-token protocol: requests and replies are lines between two tokens, and it has a memory.

Any program in any language can be a model like this one. It prints READY once it has loaded; then a request is START,
lines, STOP, and so is its reply; EXIT ends it. What it prints to stderr is its log.
"""

import sys

READY, START, STOP, EXIT = "@!#READY#!@", "@!#START#!@", "@!#STOP#!@", "@!#EXIT#!@"


def requests(lines):
    """Give the text of each request until EXIT or the end of the input."""
    text = None
    for line in lines:
        line = line.rstrip("\n")
        if line == EXIT:
            return
        if line == START:
            text = []
        elif line == STOP and text is not None:
            yield "\n".join(text)
            text = None
        elif text is not None:
            text.append(line)


def answer(text, history):
    """Return the reply to `text` after what was said before."""
    if text.strip().lower() in {"history", "what did i say?"}:
        return "\n".join(f"{number}. {said}" for number, said in enumerate(history, start=1)) or "Nothing yet."
    history.append(text)
    before = f" Before that you said: {history[-2]}" if len(history) > 1 else " Tell me more."
    return f"I heard: {text}.{before}"


def main():
    """Answer until EXIT."""
    history = []
    print(READY, flush=True)
    for text in requests(sys.stdin):
        print(START, answer(text, history), STOP, sep="\n", flush=True)


if __name__ == "__main__":
    main()
