"""Decides whether an idle worker delays a small batch. Pure: times are arguments, in seconds.

Clients that wait for each result send their next requests together, shortly after the batch that answered them. A batch
of the first such request alone costs almost as much as a batch of all of them, because each batch reads all weights. So
the worker waits for the clients that its last batch answered, for a small fraction of the duration of that batch.

If requests arrive at random, the delay has no benefit. A moving average of earlier outcomes decides whether the worker
waits. While it does not wait, it retries after every ``RETRY_AFTER`` skipped delays.
"""

from __future__ import annotations

#: A batch of fewer tokens takes nearly as long as a batch of this size.
SMALL_BATCH_TOKENS = 128
#: Longest delay, as a fraction of the last batch's duration, and in seconds.
DELAY_RATIO, MAX_DELAY = 0.1, 0.005
#: A delay is a success if at least this fraction of the missing sequences arrived.
MIN_ARRIVED_RATIO = 0.5
#: Weight of the newest outcome in the moving average, and the success rate below which the worker does not wait.
LEARNING_RATE, MIN_SUCCESS_RATE = 0.25, 0.5
#: Number of skipped delays in a row after which the worker waits once more.
RETRY_AFTER = 16


class AdaptiveBatchDelay:
    """Tracks the delays of one worker.

    Attributes:
        deadline: latest start of the next batch, in the caller's clock.
    """

    def __init__(self) -> None:
        self.deadline = 0.0
        self._expected = 0
        self._queued_at_start: int | None = None  # queued sequences when the delay began; None: no delay is active
        self._success_rate = 1.0  # moving average, 0 to 1
        self._skipped = 0  # delays skipped in a row

    def on_batch_done(self, answered: int, queued: int, seconds: float, now: float) -> None:
        """Records a finished batch.

        Args:
            answered: sequences of the requests that are complete with this batch.
            queued: sequences in the queue.
            seconds: duration of the batch.
        """
        self._expected = queued + answered
        self._queued_at_start = None
        self.deadline = now + min(MAX_DELAY, DELAY_RATIO * seconds)

    def should_wait(self, queued: int, tokens: int, now: float) -> bool:
        """Returns whether the worker waits for more than ``queued`` sequences of ``tokens`` tokens in all."""
        is_early = queued < self._expected and tokens < SMALL_BATCH_TOKENS and now < self.deadline
        if is_early and (self._queued_at_start is not None or self._try_start(queued)):
            return True
        if self._queued_at_start is not None:
            arrived, missing = queued - self._queued_at_start, self._expected - self._queued_at_start
            self._success_rate += LEARNING_RATE * ((arrived >= MIN_ARRIVED_RATIO * missing) - self._success_rate)
            self._queued_at_start = None
        self.deadline = now
        return False

    def _try_start(self, queued: int) -> bool:
        """Starts a delay if earlier ones succeeded, or if a retry is due."""
        if self._success_rate < MIN_SUCCESS_RATE and self._skipped < RETRY_AFTER:
            self._skipped += 1
            return False
        self._skipped, self._queued_at_start = 0, queued
        return True
