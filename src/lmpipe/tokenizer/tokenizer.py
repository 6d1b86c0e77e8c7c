"""A byte-level BPE tokenizer: its vocabulary, and text to token ids."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain

import numpy as np

from lmpipe.kernels.bpe.encoder import Encoder
from lmpipe.tokenizer.chunking import BLOCK_BYTES, last_split_point
from lmpipe.tokenizer.pretokenizer import encode_utf8, special_bytes
from lmpipe.tokenizer.vocabulary import Vocabulary

STREAM_BYTES = 1 << 16


class Tokenizer(Vocabulary):
    """Encodes text by applying merges, the earliest first, inside GPT-2's pre-tokens (handout, section 2.6).

    Special tokens cut the text, the longest first where several start at one place, and never merge. Of the text's
    bytes (`lmpipe.tokenizer.pretokenizer.encode_utf8`) each that is no part of well-formed UTF-8 counts as one
    punctuation character.
    """

    @cached_property
    def encoder(self) -> Encoder:
        """The compiled encoder; its cache is filled as texts are encoded."""
        lengths = np.zeros(self.vocab_size, np.uint32)
        for token_id, token in self.vocab.items():
            lengths[token_id] = len(token)
        specials = [(encode_utf8(token), token_id) for token, token_id in self._special_ids.items()]
        return Encoder(self._byte_ids, self._merge_ids, lengths, specials)

    def encode(self, text: str) -> list[int]:
        """The token ids of a text. Special tokens in it become their ids."""
        return self.encode_to_numpy(text).tolist()

    def encode_to_numpy(self, text: str) -> np.ndarray:
        """As encode, but an array (tokens,) of uint16, or uint32 for more than 65,536 ids; 20 times as fast."""
        pieces = (encode_utf8(text[place : place + BLOCK_BYTES]) for place in range(0, len(text), BLOCK_BYTES))
        parts = list(self._encode_stream(pieces))
        return np.concatenate(parts) if parts else np.zeros(0, self.encoder.dtype)

    def encode_iterable(self, pieces: Iterable[str]) -> Iterator[int]:
        """The token ids of a text that comes in pieces, lazily and in constant memory.

        They are what `encode` gives for the joined text, wherever the pieces end.
        """
        return chain.from_iterable(ids.tolist() for ids in self._encode_stream(map(encode_utf8, pieces)))

    def _encode_stream(self, pieces: Iterable[bytes]) -> Iterator[np.ndarray]:
        """The ids of bytes that come in pieces; what later pieces can change is held back."""
        specials = special_bytes(self.special_tokens)
        held, enough = bytearray(), STREAM_BYTES
        for piece in pieces:
            held += piece
            if len(held) >= enough:
                if cut := last_split_point(held, specials):
                    yield self._encode_bytes(held[:cut])
                    del held[:cut]
                # Looking again at a text without a cut only when it has doubled keeps the work linear.
                enough = max(STREAM_BYTES, 2 * len(held))
        if held:
            yield self._encode_bytes(held)

    def _encode_bytes(self, data: bytes | bytearray) -> np.ndarray:
        """The ids of a whole text."""
        with self.encoder.workspace() as space:
            space.write(data)
            return self.encoder.encode(space, len(data)).copy()

    def forget(self) -> None:
        """Empty the cache of encoded text, as before the first call."""
        self.encoder.clear()
