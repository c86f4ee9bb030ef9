package meshless

import (
	"context"
	"errors"
	"time"
)

const (
	defaultBaseDelay = 50 * time.Millisecond
	defaultMaxDelay  = 2 * time.Second
	longestAdvice    = time.Minute
)

// Retry says how often a [Dialer] tries again after an error that is Retryable. The zero value does not.
//
// The n-th delay is drawn evenly from zero to Base times 2 to the n-1, at most Max (full jitter), so that clients that were
// refused together do not come back together. The agent's advice is added to it, and never undercut. The first
// delay is left out if the agent says so, and after [ErrDraining]: the next agent is there already.
type Retry struct {
	Attempts int           // how often to dial in all; 0 and 1 mean once
	Base     time.Duration // the longest first delay, 50 ms if 0
	Max      time.Duration // the longest delay without advice, 2 s if 0
}

// delay returns how long to wait behind the given attempt, counted from 1, which ended with err; false to give up.
// random returns numbers from 0 to 1.
func (r Retry) delay(attempt int, err error, random func() float64) (time.Duration, bool) {
	var failure *Error
	if attempt >= r.Attempts || !errors.As(err, &failure) || !failure.Retryable || failure.RetryAfter > longestAdvice {
		return 0, false
	}
	if attempt == 1 && (failure.Code == ErrDraining || failure.atOnce) {
		return failure.RetryAfter, true
	}
	longest, limit := r.Base, r.Max
	if longest <= 0 {
		longest = defaultBaseDelay
	}
	if limit <= 0 {
		limit = defaultMaxDelay
	}
	for i := 1; i < attempt && longest < limit; i++ {
		longest *= 2
	}
	return failure.RetryAfter + time.Duration(random()*float64(min(longest, limit))), true
}

// pause waits; it returns the context's error if that comes first, at once if the deadline comes before the end.
func pause(ctx context.Context, delay time.Duration) error {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= delay {
		if err := ctx.Err(); err != nil {
			return err
		}
		return context.DeadlineExceeded
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
