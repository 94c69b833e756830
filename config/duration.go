package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// longest bounds every duration, so that sums of several never overflow and a
// slip of the unit is seen.
const longest = Duration(365 * 24 * time.Hour)

// String is d as a file would say it: "20m", "1h30m", "0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText is String, for JSON and its like.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what a file may say. The error says what would be right.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	v, err := time.ParseDuration(s)
	if err != nil {
		if _, err := strconv.ParseFloat(s, 64); err == nil {
			return fmt.Errorf("%q has no unit: write %q", s, s+"s")
		}
		return fmt.Errorf(`%q is not a duration: write numbers with units (ms, s, m, h), such as "90s" or "1h30m"`, s)
	}
	if v > longest.Std() || v < -longest.Std() {
		return fmt.Errorf("%q is longer than a year (%s): is the unit right?", s, longest)
	}
	*d = Duration(v)
	return nil
}
