"""Damages bytes as disks, editors and attackers do: the same damage for the same seed."""

import random

INTERESTING = (b"\x00", b"\xff", b"\xff" * 8, b"\x80", b"-1", b"0", b"99999999999999999999", b"1e999", b"nan", b"null", b"{}", b"[]",
               b'"', b"'", b"\n", b"\r", b"\t", b",", b":", b"{", b"[", b"\\u0000", b"\xef\xbb\xbf", b"\xf0\x9f\x98\x80",
               b"../../etc/passwd", b"!!python/object/apply:os.system [id]", b"&a [*a]", b"A" * 5000)  # fmt: skip


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """Returns bytes with one to six damages; now and then bytes that have nothing to do with them."""
    if draw.random() < 0.02:
        return draw.randbytes(draw.randrange(200))
    content = bytearray(whole)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        if not content:
            return bytes(content)
        at = draw.randrange(len(content))
        span = min(draw.choice((1, 2, 8, 64, 1024)), len(content) - at)
        kind = draw.randrange(7)
        if kind == 0:
            content[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del content[at:]
        elif kind == 2:
            del content[at : at + span]
        elif kind == 3:
            content[at:at] = content[at : at + span] * draw.choice((1, 2, 50))
        elif kind == 4:
            content[at : at + span] = draw.randbytes(span)
        elif kind == 5:
            content[at:at] = draw.choice(INTERESTING)
        else:
            other = draw.randrange(len(content))
            content[at : at + span] = content[other : other + span]
    return bytes(content)
