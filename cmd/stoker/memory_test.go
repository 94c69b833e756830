package main

import "testing"

func TestThrift(t *testing.T) {
	now := usualPercent
	for _, step := range []struct {
		lives uint64
		want  int
	}{{5 << 20, usualPercent}, {31 << 20, usualPercent}, {32 << 20, thriftyPercent}, {25 << 20, thriftyPercent}, {23 << 20, usualPercent}, {31 << 20, usualPercent}} {
		if now = thrifty(now, step.lives); now != step.want {
			t.Errorf("%d bytes: %d %%, want %d", step.lives, now, step.want)
		}
	}
}
