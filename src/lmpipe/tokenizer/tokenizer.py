"""Byte-level BPE tokenizer: a vocabulary that encodes text."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain

import numpy as np

from lmpipe.io.validation import require_type
from lmpipe.kernels.bpe.encoder import Encoder
from lmpipe.tokenizer.chunking import BLOCK_BYTES, last_split_point
from lmpipe.tokenizer.pretokenizer import encode_utf8, special_bytes
from lmpipe.tokenizer.vocabulary import Vocabulary

STREAM_BYTES = 1 << 16


class Tokenizer(Vocabulary):
    """Encodes text by applying merges, the earliest first, inside GPT-2's pre-tokens (handout, section 2.6).

    Special tokens split the text and never merge; of several that start at one position, the longest counts. Each byte
    outside well-formed UTF-8 is treated as one punctuation character (see lmpipe.tokenizer.pretokenizer).
    """

    @cached_property
    def encoder(self) -> Encoder:
        """Compiled encoder, which caches the pre-tokens that it has encoded."""
        return self._make_encoder()

    def clear_cache(self) -> None:
        """Replace the encoder by one with an empty cache."""
        self.encoder = self._make_encoder()

    def _make_encoder(self) -> Encoder:
        lengths = np.zeros(self.vocab_size, np.uint32)
        for token_id, token in self.vocab.items():
            lengths[token_id] = len(token)
        specials = [(encode_utf8(token), token_id) for token, token_id in self._special_ids.items()]
        return Encoder(self._byte_ids, self._merge_ids, lengths, specials)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text; special tokens in it become their ids."""
        return self.encode_to_numpy(text).tolist()

    def encode_to_numpy(self, text: str) -> np.ndarray:
        """Return the ids as an array (tokens,), uint16 or, for more than 65,536 ids, uint32; 20 times as fast."""
        require_type("text", text, str, "a str")
        pieces = (encode_utf8(text[start : start + BLOCK_BYTES]) for start in range(0, len(text), BLOCK_BYTES))
        blocks = list(self._encode_stream(pieces))
        return np.concatenate(blocks) if blocks else np.zeros(0, self.encoder.dtype)

    def encode_iterable(self, pieces: Iterable[str]) -> Iterator[int]:
        """Yield the token ids of a text in pieces, in constant memory; the same as those of the joined text."""
        return chain.from_iterable(ids.tolist() for ids in self._encode_stream(map(encode_utf8, pieces)))

    def _encode_stream(self, pieces: Iterable[bytes]) -> Iterator[np.ndarray]:
        """Yield the ids of bytes in pieces; what later pieces can change is buffered."""
        specials = special_bytes(self.special_tokens)
        buffer, threshold = bytearray(), STREAM_BYTES
        for piece in pieces:
            buffer += piece
            if len(buffer) >= threshold:
                if split_point := last_split_point(buffer, specials):
                    yield self._encode_bytes(buffer[:split_point])
                    del buffer[:split_point]
                # A text without split points is searched again only when it has doubled, in linear time overall.
                threshold = max(STREAM_BYTES, 2 * len(buffer))
        if buffer:
            yield self._encode_bytes(buffer)

    def _encode_bytes(self, data: bytes | bytearray) -> np.ndarray:
        """Return the ids of a complete text."""
        with self.encoder.workspace() as space:
            space.write(data)
            return space.encode(len(data)).copy()
