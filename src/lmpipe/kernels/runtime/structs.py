"""Where things lie in the memory that kernels share with their callers. Plain numbers: nothing here imports Numba."""

WORD = 8  # bytes of one field of a state

# Vector loads may read this far beyond the end of a text, so every text buffer is longer by it.
PADDING = 128

# The state of a scan (scan.py): the next byte, then what the bytes before it decide about it.
SCAN_POSITION, SCAN_LETTER, SCAN_DIGIT, SCAN_OTHER, SCAN_SPACE, SCAN_WHITE, SCAN_FORCED, SCAN_BARRED = range(8)
SCAN_FIELDS = 8
# A scan emits up to this many starts at a time, and ends when fewer fit.
SCAN_SLACK = 64

# Classes of characters in the table that scan.py reads.
OTHER, LETTER, DIGIT, WHITE = range(4)

# The table of registered buffers that checked kernels look into (memory.py).
BOUNDS_SPARE, BOUNDS_FAILURES, BOUNDS_ADDRESS, BOUNDS_SIZE, BOUNDS_USED = range(5)
BOUNDS_FIRST = 8

# What find_specials tells of each special token: the bytes from `place` to `end`, and which token it is.
FOUND_PLACE, FOUND_END, FOUND_NUMBER = range(3)
FOUND_FIELDS = 3

# A table of unique pre-tokens (count.py): slots of 32 bytes, and an arena for the texts of 16 bytes or more.
SLOT_LOW, SLOT_HIGH, SLOT_COUNT, SLOT_SIZE = range(4)
SLOT_BYTES = 32
TABLE_SLOTS, TABLE_CAPACITY, TABLE_USED, TABLE_ARENA, TABLE_ARENA_USED, TABLE_ARENA_SIZE = range(6)
TABLE_FIELDS = 6
INLINE_BYTES = 15  # longer pre-tokens lie in the arena

# The state of going through a block of text (count.py): what the caller sets, then what the kernels keep between calls.
BLOCK_BASE, BLOCK_STOP, BLOCK_CLASSES, BLOCK_SPECIALS, BLOCK_FOUND, BLOCK_FOUND_ROOM = range(6)
BLOCK_STARTS, BLOCK_STARTS_ROOM, BLOCK_KEYS, BLOCK_TABLE = range(6, 10)  # the table of counts, or the encoder's work
BLOCK_PLACE, BLOCK_OPEN, BLOCK_SEGMENT_STOP, BLOCK_SPECIAL, BLOCK_FOUND_COUNT, BLOCK_FOUND_NEXT = range(10, 16)
BLOCK_CARRIED, BLOCK_WAITING, BLOCK_SCAN = range(16, 19)
BLOCK_FIELDS = BLOCK_SCAN + SCAN_FIELDS
BATCH = 128  # pre-tokens that are looked up together
KEY_BYTES = 24
DONE, NO_ROOM = range(2)  # what going through a block stops for

# The encoder's work (encode.py): the tables of a vocabulary, the cache, a thread's own memory.
WORK_RULES, WORK_RULES_CAPACITY, WORK_MERGED, WORK_BYTE_IDS, WORK_LENGTHS, WORK_SPECIAL_IDS = range(6)
WORK_SLOTS, WORK_CAPACITY, WORK_FREE, WORK_ARENA, WORK_ARENA_LEFT = range(6, 11)
WORK_SCRATCH, WORK_SCRATCH_SYMBOLS, WORK_OUTPUT, WORK_WINDOW, WORK_MARGIN = range(11, 16)
WORK_FIELDS = 16
# A rule is one number: the ids of a pair (21 bits each) and its rank plus one (22 bits); 0: free.
ID_BITS, RANK_BITS = 21, 22
SCRATCH_BYTES = 17  # for each symbol being merged: its id, rank and neighbours, and a share of the smallest ranks
# A slot of the cache: as in a table of pre-tokens, then ids (or, if there are too many, where they lie) and how many.
SLOT_IDS, SLOT_ID_COUNT = range(2, 4)

# A word being merged (merge.py): its count, how many symbols it has, how many it had, then the symbols.
RECORD_COUNT, RECORD_SIZE, RECORD_ROOM, RECORD_SYMBOLS = 0, 8, 12, 16  # bytes from its start
RECORD_UNIT = 4  # words are known by their place in units of 4 bytes, so that 32 bits reach 16 GiB
# A pair in the table of pairs: its key plus one (0: free), how often it occurs, and its list of words in the pool.
PAIR_KEY, PAIR_COUNT, PAIR_START, PAIR_WORDS = range(4)
PAIR_BYTES = 32
COUNTER_BYTES = 16  # a pair in the table that counts all pairs: key plus one, count
HEAP_BYTES = 16  # count, key
NEAR_BYTES = 16  # what a merge finds beside the new token: count (int64), words (int32), the last word (uint32)
EVENT_BYTES = 8  # a symbol beside a new token (int32, right neighbours as ~symbol), a word (uint32)
TOKEN_BYTES = 24  # a token's first eight bytes as a number, the start and the length of all of them

# The state of merging.
MERGE_RECORDS, MERGE_RECORDS_USED, MERGE_COUNTER, MERGE_COUNTER_CAPACITY, MERGE_COUNTER_USED = range(5)
MERGE_PAIRS, MERGE_PAIRS_CAPACITY, MERGE_PAIRS_USED, MERGE_POOL, MERGE_POOL_SIZE, MERGE_POOL_USED = range(5, 11)
MERGE_HEAP, MERGE_HEAP_SIZE, MERGE_HEAP_USED, MERGE_LEFT, MERGE_RIGHT, MERGE_NEAR_LEFT, MERGE_NEAR_RIGHT = range(11, 18)
MERGE_EVENTS, MERGE_TOKENS, MERGE_TEXT, MERGE_TEXT_SIZE, MERGE_TEXT_USED, MERGE_LEAST = range(18, 24)
MERGE_OUTPUT, MERGE_WANTED, MERGE_DONE, MERGE_NEXT = range(24, 28)
MERGE_PENDING, MERGE_EVENTS_USED, MERGE_LEFTS, MERGE_RIGHTS, MERGE_TWINS, MERGE_TWIN_WORDS = range(28, 34)
MERGE_FIELDS = 34
# What merging stops for: nothing is left to do, a buffer is full, or rarer pairs must be looked up.
MERGE_FINISHED, PAIRS_FULL, POOL_FULL, HEAP_FULL, TEXT_FULL, PAIRS_ENDED = range(6)
SLACK = 64  # bytes behind the last record that vector loads may read

LANES = 16  # float32 numbers of a vector
LANES_BYTES = 4 * LANES


def filled_up(count: int, unit: int) -> int:
    """The next multiple of a unit.

    >>> filled_up(64, 64), filled_up(65, 64)
    (64, 128)
    """
    return -(-count // unit) * unit
