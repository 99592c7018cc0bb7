"""The words around a stated choice, as patterns: every one bounded, so that the time is linear in the text.

They are meant for text in single spaces (`stated_choice.clean`).
"""
# ruff: noqa: RUF001 - letters of other scripts are what is meant

from __future__ import annotations

import re
import unicodedata


def any_of(*words: str) -> str:
    """A pattern of any of the words, the longest first."""
    # As texts are normalised before they are read: Thai, for one, is written in other characters then.
    return "(?:" + "|".join(sorted((unicodedata.normalize("NFKC", w) for w in words), key=len, reverse=True)) + ")"


MARKUP = re.compile(
    r"\\(?:text|math|mbox|operatorname|displaystyle|left|right|rm|bf)[a-z]{0,8}(?![a-z])|\\[()\[\]]"
    r"|</?(?:b|i|u|p|em|br|code|span|strong|answer|final_answer)\s?/?>|[*_`$“”„«»\"]"
    r"|(?<![^\W\d_])['‘’]|['‘’](?![^\W\d_])",
    re.IGNORECASE,
)
"""What may stand around a letter without meaning anything: LaTeX's fonts, tags, emphasis, quotes (no apostrophes)."""
ARROWS = str.maketrans(dict.fromkeys("➡⇒⟹➔➜", "→"))
PICTURES = re.compile("[\u2600-\u27bf\U0001f000-\U0001faff\ufe0f\u200b-\u200d\ufeff]")
"""Emoji, and characters without width."""

END = r"(?![A-Za-z0-9À-ɏ'’+#])(?!-\w)(?!\.[A-Za-z](?![A-Za-z]))"
"""A letter ends here: no word, no "B's", "C++", "B-12", "B.C."."""
LETTER = re.compile(rf" ?(?:[(\[{{<] ?([A-Za-z]) ?[)\]}}>]|([A-Z]){END}|([a-z])(?=[)\]}}.:,;!]| ?$| ?\n))")
"""A letter by itself: in brackets, or a capital; a small one ("a") only before punctuation or at the end of a line."""

WESTERN = any_of(
    "answer", "ans", "choice", "option", "letter", "solution", "selection", "selected", "response", "pick", "verdict",
    "réponse", "respuesta", "opción correcta", "solución", "risposta", "soluzione", "resposta", "antwort", "lösung",
    "antwoord", "svar", "svaret", "válasz", "vastaus",
    "odpowiedź", "odpověď", "răspuns", "cevap", "jawaban", "jibu", "câu trả lời", "đáp án",
    "ответ", "απάντηση", "الإجابة", "الجواب", "إجابة", "תשובה", "پاسخ", "उत्तर", "উত্তর",
)  # fmt: skip
EASTERN = any_of(
    "答案",
    "正确的",
    "正確的",
    "उत्तर",
    "উত্তর",
    "正确选项",
    "正確選項",
    "答え",
    "正解",
    "回答",
    "解答",
    "정답",
    "답변",
    "답",
    "คำตอบ",
)
COPULA = any_of(
    "is", "are", "was", "(?:would|will|should|must|has to|have to|can only|could only) be", "remains", "becomes",
    "es", "est", "è", "é", "ist", "jest", "je", "adalah", "lautet", "är", "er", "هي", "هو", "là",
)  # fmt: skip
SIGN = any_of(":", "=", "->", "=>", "→", "-", "–", "—")
EASTERN_COPULA = any_of("应该是", "应为", "應為", "是", "为", "為", "は", "은", "는", "คือ", ":", "=")
FILLER = any_of(
    "therefore", "thus", "then", "clearly", "definitely", "most likely", "probably", "indeed", "simply", "just", "only",
    "the", "option", "choice", "letter", "answer", "number", "as follows", "correct", "right", "best", ":", "is",
    "not [A-Z],? (?:but|rather|instead)", "la", "le", "el", "die", "der", "das", "lettre", "letra", "lettera", "opción",
    "opção", "opzione", "a letra", "a opção", "a alternativa", "alternativa", "buchstabe",
    "вариант", "выбор", "选项", "選項", "選択肢",
)  # fmt: skip
ANNOUNCEMENT = re.compile(
    rf"(?:\b{WESTERN}\b(?:(?:[^\n.:=?!]{{0,40}}?[^\w\n])?? ?{COPULA}(?!\w)|[^\n.:=?!]{{0,40}}?{SIGN}) ?"
    rf"(?:(?:{COPULA}(?!\w)|{SIGN}) ?)?"
    rf"|{EASTERN}[^\n。.:=?!]{{0,12}}?(?:{EASTERN_COPULA} ?){{1,2}})(?:\n?(?:{FILLER}(?![^\W\d_]) ?){{0,4}})",
    re.IGNORECASE,
)
"""Where an answer is announced, its letter or text following: in English and in the languages of multilingual MMLU."""
TERSE = re.compile(rf"(?:^|\n)#{{0,6}} ?(?:final |correct |best )?answer[ \n]|{EASTERN}", re.IGNORECASE)
"""The same without a verb: "Answer B" at the beginning of a line, or the answer on the line after the word."""
LISTING = re.compile(r"\b(?:choices|options|answers)\b|\b(?:[Oo]ption|[Cc]hoice|[Ll]etter) [(\[{]?[A-Z](?![A-Za-z])")
"""No announcement: "the options are ...", "option A: ..."."""

ADVERB = any_of(
    "clearly", "definitely", "indeed", "therefore", "thus", "obviously", "most", "likely", "probably", "actually",
    "certainly", "the", "our", "my", "only", "best", "single", "one",
)  # fmt: skip
CORRECT = re.compile(
    rf" ?(?:is|must be|would be|seems|looks)(?: {ADVERB}){{0,4}}"
    r" (?:correct|right|best|true|answer|accurate|solution|appropriate|choice|option)\b"
    r"|(?: ?(?:选项|選項|项|項))? ?(?:才?是)?(?:正确|正確|对的|對的)",
    re.IGNORECASE,
)
"""What follows a letter that is called right."""
THEREFORE = any_of("therefore", "thus", "so", "hence", "consequently", "accordingly", "in conclusion", "in summary",
                   "but", "rather", "instead")  # fmt: skip
IT_IS = any_of("it is", "it's", "it must be", "it has to be", "it would be", "that is", "that's", "this is", "must be",
               "has to be", "we have", "we get", "we choose", "the correct")  # fmt: skip
OPTION_WORD = r"(?: (?:the )?(?:option|choice|answer|letter|definitely|clearly|probably))?"
CHOICE_WORDS = re.compile(
    r"\b(?:choos(?:e|ing)|chose|pick(?:ing)?|select(?:ed|ing)?|go(?:ing)? with|went with|opt(?:ing)? for|vote for|say"
    rf"|guess|answer with|settle on|conclude(?: that)?(?: it is)?){OPTION_WORD}(?= )"
    rf"|\b(?:only|one|best|correct|right|true)\b[^.,;:!?\n]{{0,40}} (?:is|be)(?= )"
    rf"|(?:\b{THEREFORE}\b|∴|→|[-=]>)[,:]?(?: {IT_IS})?{OPTION_WORD}(?= |[(\[{{])|\b{IT_IS}{OPTION_WORD}(?= )"
    r"|(?:故选|应选|應選|选择|選擇|选|選|因此|所以)(?:是|为|為|:|,)?(?: ?选项)?",
    re.IGNORECASE,
)
"""Words before a letter that is chosen."""

NEGATION = re.compile(
    r"\b(?:not|nor|neither|never|cannot|unless|if|whether|except|eliminates?|rules? out|excludes?|without)\b"
    r"|n['’]t\b|不",
    re.IGNORECASE,
)
SAYS_OF_IT = re.compile(
    r" ?(?:is|isn|are|was|wasn|were|can|cannot|could|couldn|does|doesn|do|has|would|will|fails?|seems?|looks?)\b"
)
"""What follows a letter that is spoken of, not chosen."""
WRONG = re.compile(
    r" ?(?:is|was|are|can|does|would|seems)(?:n['’]t\b|not\b| (?:\w+ )?(?:not|wrong|incorrect|false|out|invalid)\b)"
    r"|,? ?(?:wrong|incorrect|false)\b"
)
TAKEN_BACK = (
    r"(?:oh |but |hmm,? )?(?:wait|actually|correction|scratch that|on second thought|oops|my mistake"
    r"|(?:no|nope|hmm|sorry)(?=[,.:;!…—]))\b[,.:;!…— ]{0,3}"
)
CORRECTION = re.compile(rf"(?:^|[.!?,;:)\n…—-]) ?{TAKEN_BACK}", re.IGNORECASE)
"""Where a statement is taken back."""
CORRECTION_GOES_ON = re.compile(f" ?{TAKEN_BACK}", re.IGNORECASE)
GOES_ON = re.compile(
    r" (?:because|since|as|is|which|with|for|due|given|but|not|in|and|or|so|when|where|that|by|if|from|per"
    r"|car|parce|porque|pues|weil|da|denn|perché|perchè|так|потому|omdat)\b",
    re.IGNORECASE,
)
"""Words after "A" (or "I") that show it to be a letter: none of them follows an article."""
ANOTHER = re.compile(
    rf" ?(?:[,/&;、和或与]|,? ?\b(?:and/or|and|or|und|oder|et|ou|y|o|e)\b) ?(?:or |and )?(?:option |choice )?"
    rf"[(\[{{]?([A-Z]){END}[)\]}}]?"
)
"""A second letter beside one."""
OPTION_LABEL = re.compile(rf"\b(?:option|choice) [(\[{{]?([A-Z]){END}", re.IGNORECASE)
LABEL = re.compile(
    r"^[-• ]{0,3}(?:[(\[]([A-Za-z])[)\]][.:]?(?= |$)|([A-Z])(?:[.:)\]](?!\.?[A-Za-z]\.)|(?= [-–—] )))", re.MULTILINE
)
"""A letter that begins a line as a label."""
ALONE = re.compile(
    r"(?:[>\d.)•-]{1,3} ){0,2}(?:[\[(]?(?:so|thus|therefore|hence|ok|okay|sure|the|final|correct|answer"
    r"|option|choice|letter|definitely|certainly|just|yes)"
    r"[\])]?[,:!.]? ){0,4}",
    re.IGNORECASE,
)
"""What may stand before the only letter of a line."""
