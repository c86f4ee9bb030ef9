package meshless

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestDelaysGrowAreDrawnEvenlyAndNeverUndercutAdvice(t *testing.T) {
	retry := Retry{Attempts: 100, Base: 100 * time.Millisecond, Max: time.Second}
	advised := newError(ErrOverloaded, "", "", nil)
	advised.RetryAfter = 3 * time.Second
	tooLong := newError(ErrOverloaded, "", "", nil)
	tooLong.RetryAfter = time.Hour
	atOnce := newError(ErrOverloaded, "", "", nil)
	atOnce.atOnce = true
	plain, draining := newError(ErrNoEndpoint, "", "", nil), newError(ErrDraining, "", "", nil)
	for _, test := range []struct {
		attempt int
		err     error
		random  float64
		want    time.Duration
		again   bool
	}{
		{1, plain, 1, 100 * time.Millisecond, true},
		{1, plain, 0, 0, true},
		{3, plain, 1, 400 * time.Millisecond, true},
		{3, plain, 0.5, 200 * time.Millisecond, true},
		{5, plain, 1, time.Second, true},
		{99, plain, 1, time.Second, true},
		{100, plain, 1, 0, false},
		{1, advised, 0, 3 * time.Second, true},
		{1, advised, 1, 3100 * time.Millisecond, true},
		{1, tooLong, 0, 0, false},
		{1, draining, 1, 0, true},
		{2, draining, 1, 200 * time.Millisecond, true},
		{1, atOnce, 1, 0, true},
		{2, atOnce, 1, 200 * time.Millisecond, true},
		{1, newError(ErrAccessDenied, "", "", nil), 1, 0, false},
		{1, errors.New("another"), 1, 0, false},
		{1, context.Canceled, 1, 0, false},
	} {
		got, again := retry.delay(test.attempt, test.err, func() float64 { return test.random })
		if got != test.want || again != test.again {
			t.Errorf("%+v: %v, %v", test, got, again)
		}
	}
	if _, again := (Retry{}).delay(1, plain, func() float64 { return 0 }); again {
		t.Error("the zero value tries again")
	}
}
