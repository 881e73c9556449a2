"""What does a model answer that has only ever read?

It is trained apart, on questions of the training data and their answers: multinomial naive Bayes over the words of a
question, and over runs of two and three of them. What it gets right follows from how questions are put, and from which
answers are frequent. A deeper reader of the scenes' questions is no better: logistic regression is right as often.

Reference: the language-only baselines of Agrawal et al. 2016 (VQA), arXiv 1505.00468, section 5.
"""

from collections.abc import Iterable, Sequence

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from mmfuse.types import ConfigError, Question


class QuestionOnly:
    """Answers questions by their words alone."""

    def __init__(self, questions: Iterable[Question]):
        """Learns from questions and their answers.

        Raises:
          ConfigError: there is no question.
        """
        asked = list(questions)
        if not asked:
            raise ConfigError("question_only: these records have no questions to learn from; name another source.")
        words = CountVectorizer(ngram_range=(1, 3), token_pattern=r"\w+|[^\w\s]", binary=True)
        self.model = make_pipeline(words, MultinomialNB())
        self.model.fit([question.text for question in asked], [question.answer for question in asked])

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The likeliest answer to each question, of all that it has seen."""
        return [str(answer) for answer in self.model.predict(list(texts))]
