"""What a script of dev/ prints of itself, its docstring, before it imports anything large: usage(__doc__, least, most number of words, flags it knows)."""
import sys


def usage(text, least, most, flags=()):
    words = sys.argv[1:]
    if "-h" in words or "--help" in words:
        print(text.strip())
        sys.exit(0)
    unknown = [w for w in words if w.startswith("-") and w not in flags]
    if unknown or not least <= len(words) <= most:
        print(f"{sys.argv[0]}: error: {f'there is no flag {unknown[0]}' if unknown else f'{len(words)} arguments'}\n\n{text.strip()}", file=sys.stderr)
        sys.exit(2)
