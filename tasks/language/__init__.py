"""Language models on bytes: pretrained from scratch, in integers or in floats."""

from tasks.language.task import Language as Language
