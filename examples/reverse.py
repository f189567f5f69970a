"""A task of your own: words to write backwards. The more letters stand right, the better the score."""

from dataclasses import dataclass

from multi_attempt.tasks import Message, Task, Verdict, user


@dataclass(frozen=True)
class Word:
    letters: str


class Reverse(Task[Word]):
    Row = Word

    def opening(self, row: Word, attempts: int) -> list[Message]:
        return [user(f"Write {row.letters} backwards ({attempts}).")]

    async def verdict(self, row: Word, response: str) -> Verdict:
        said, wanted = response.strip(), row.letters[::-1]
        share = sum(map(str.__eq__, said, wanted)) / max(len(said), len(wanted))
        return Verdict(said == wanted, answer=said or None, score=share)

    def gold_response(self, row: Word) -> str:
        return row.letters[::-1]
