"""Structs of the BPE kernels: scans, tables of pre-tokens, the encoder, the merge loop."""

from lmpipe.kernels.runtime.structs import struct

# Classes of characters.
OTHER, LETTER, DIGIT, WHITE = range(4)

# The state of a scan for pre-tokens: the position of the next byte, then what the bytes before it decide about it.
SCAN = struct("position letter digit other space white force forbid")
# A scan emits up to this many starts at a time, and ends when fewer fit.
SCAN_SLACK = 64

# The special tokens: how many first bytes they have, and how many tokens there are.
SPECIALS = struct("first_bytes tokens")
SPECIAL = struct("address size index")

# Slots of a table of pre-tokens. Up to INLINE_BYTES stand in the slot (low, high), longer ones in the arena.
SLOT = struct("low high count size")
INLINE_BYTES = 15
TABLE = struct("slots capacity used arena arena_used arena_size")

# A pass over a block of text: what the caller sets, then what the kernels keep between calls. `table` is the table of
# counts, or the encoder's work.
BLOCK = struct(
    "base stop classes specials starts starts_room keys table "
    f"position is_open segment_stop special carried pending scan:{SCAN.nbytes}"
)
# A pre-token of a batch that is looked up together: its slot's first two words, and the address of the slot. A longer
# one has its position, LONG and its size.
KEY = struct("low high slot")
BATCH = 128
DONE, NO_ROOM = range(2)  # why a pass over a block stops

# The encoder's work: the tables of a vocabulary, the cache, a thread's own memory.
WORK = struct(
    "merges merges_capacity merged_ids byte_ids lengths special_ids "
    "slots capacity free arena arena_left "
    "scratch scratch_symbols scratch_needed output window margin"
)
# A merge is one number: the ids of a pair (21 bits each) and its rank plus one (22 bits); 0: free.
ID_BITS, RANK_BITS = 21, 22
SCRATCH_BYTES = 17  # for each symbol being merged: its id, rank and two neighbours, and its share of the tree of minima
TREE_LEVELS_BYTES = 128  # addresses of the levels of the tree
# A slot of the cache: as in a table of pre-tokens, then ids (or the address of more than fit) and their number.
CACHE_SLOT = struct("low high ids id_count")

# A word being merged: its count, its number of symbols, how many it had at first, then the symbols.
RECORD = struct("count size:4 room:4 symbols:0")
RECORD_UNIT = 4  # words are known by their offset in units of 4 bytes, so that 32 bits reach 16 GiB
# A pair in the table of pairs: its key plus one (0: free), its count, and its list of words in the pool.
PAIR = struct("key count start words")
COUNTER = struct("key count")  # a pair in the table that counts all pairs; key plus one
HEAP_ENTRY = struct("count key")
NEIGHBOUR = struct("count words:4 last_word:4")  # of the new token: occurrences, words, the last word plus one
EVENT = struct("symbol:4 word:4")  # a neighbour of the new token (a right one as ~symbol) and its word
TOKEN = struct("head start size")  # a token's first eight bytes as a number, start and length of all of them
MERGED_PAIR = struct("left right")

# The state of the merge loop.
MERGE = struct(
    "records records_used counters counters_capacity counters_used "
    "pairs pairs_capacity pairs_used pool pool_size pool_used heap heap_used "
    "left_dirty right_dirty left_neighbours right_neighbours events tokens text text_size text_used "
    "min_count output target done next_id "
    "pending events_used num_left num_right self_pairs self_pair_words"
)
# Why the merge loop stops: nothing is left to do, a buffer is full, or no pair is left that occurs min_count times.
MERGE_FINISHED, PAIRS_FULL, POOL_FULL, TEXT_FULL, PAIRS_ENDED = range(5)
RECORDS_SLACK = 64  # bytes behind the last record that vector loads may read
NARROW_IDS = 1 << 16  # vocabularies up to this size have ids of 16 bits
