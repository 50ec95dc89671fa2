"""The cheapest width that makes a deadline, SAVE's and admission's notion of what a request needs; not who gets it."""

from __future__ import annotations

from genserve.planners.view import Task, View

MARGIN_US = 20_000
"""Kept free before a deadline, for news to travel."""


def find_need(task: Task, view: View, *, margin_us: int = MARGIN_US, priced: bool = True) -> int:
    """The degree that makes it with the fewest GPU-seconds; a wider one must be 5% cheaper. 0 when it is late.

    A change costs a resume, and a switch unless it last ran at that degree; nothing if it runs at it or never started.
    Sets the task's ``need`` and ``work`` (those GPU-seconds with encode and decode). Not ``priced``: changes are free.
    """
    budget = task.deadline_us - view.now_us - task.decode_us - task.encode_us - margin_us
    is_priced, last, prices = priced and task.last > 0, task.last, view.prices
    kept = 0 if task.is_stopping else task.degree
    best, best_cost = 0, 0.0
    for degree in task.degrees:
        run_us = task.run_us(degree)
        if is_priced and degree != kept:
            run_us += prices.resume_us if degree == last else prices.resume_us + prices.switch_us
        if run_us <= budget and (not best or degree * run_us < 0.95 * best_cost):
            best, best_cost = degree, degree * run_us
    task.need, task.work = best, best_cost + task.decode_us + task.encode_us
    return best
