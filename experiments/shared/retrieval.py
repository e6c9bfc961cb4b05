"""Evaluations of retrieval tasks alone, one for each length of the context."""

from typing import Any

from vashista_theory import evaluation


def by_length(
    config: Any, *, policy: tuple[str, ...], pages: int
) -> list[evaluation.EvaluationConfig]:
    """As `python -m vashista_theory.evaluation` takes it; a length has a store of its own.

    A quick one asks two prompts of the first two tasks at 512 tokens.

    Args:
        config: Of an experiment: model, contexts, tasks, prompts, workers, store and quick.
        policy: What reads, by its names in the evaluation.
        pages: That a read of a fixed number takes.
    """
    quick = config.quick
    return [
        evaluation.EvaluationConfig(
            model=config.model,
            policy=policy,
            pages=(pages,),
            text=(),
            tasks=config.tasks[:2] if quick else config.tasks,
            contexts=(context,),
            prompts=2 if quick else config.prompts,
            workers=config.workers,
            output=config.store / f"{'quick' if quick else 'full'}-{context}",
        )
        for context in ((512,) if quick else config.contexts)
    ]
