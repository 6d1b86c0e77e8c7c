"""Texts on which tokenizers differ easily."""

from lmpipe.tokenizer.pretokenizer import END_OF_TEXT

ODD_TEXTS = [
    "",
    " ",
    "  two  spaces  ",
    "\n\n\ttabs\r\nand line ends \n",
    "Hello , world ! do n't , I 'm ' s n't it ?",
    END_OF_TEXT,
    f"{END_OF_TEXT}{END_OF_TEXT} a{END_OF_TEXT}b <|endoftext| >",
    "Привет, мир! שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดี 你好，世界 こんにちは 안녕하세요",
    "e\u0301 é ﬁ Å Å ½ ² Ⅷ 𝒳 \u200b\u200d\ufeff\u00a0\u3000\u2028",
    "👩‍👩‍👧‍👦🏳️‍🌈🇬🇧 \x00\x01\x7f\x85",
    "<s> </s> <unk> [PAD] ▁ Ġ Ċ <0x41>",
    "the sun sat on a stone.\n",
]
