"""Small expansions that several tests make rows for."""

from tilth.tokenize.expansion import Expansion

BASE = 61
ADDED = ((3, 4), (5,), (6, 7, 7), ())
ADD = Expansion(method="add", base_size=BASE, size=BASE + 4, new_rows=tuple(range(BASE, BASE + 4)), parts=ADDED)
# ids 10 and 20 go, new tokens take their places; ids 58 to 60 move to the front of what is left
REPLACED = tuple({10: -1, 20: -1, 58: 0, 0: 58}.get(index, index) for index in range(BASE))
REPLACE = Expansion(
    method="replace", base_size=BASE, size=BASE, old_to_new=REPLACED, new_rows=(10, 20), parts=((1, 2), (10, 20))
)
