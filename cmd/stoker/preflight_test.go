package main

import (
	"strings"
	"testing"

	"stoker/supervisor"
	"stoker/supervisor/keeper"
)

// TestNewBinaryMustSpeakWithTheKeepersThatLive: keepers may be older than the
// master, so that its own versions say nothing of theirs.
func TestNewBinaryMustSpeakWithTheKeepersThatLive(t *testing.T) {
	low, high := keeper.Versions()
	old := supervisor.KeeperProtocol{Worker: "chat-0", Lowest: low, Highest: low}
	ours := supervisor.KeeperProtocol{Worker: "chat-1", Lowest: low, Highest: high}
	newer := supervisor.KeeperProtocol{Worker: "chat-2", Lowest: high, Highest: high + 4}
	for _, tc := range []struct {
		name   string
		speaks [2]int
		living []supervisor.KeeperProtocol
		says   []string // none: it is accepted
		not    string
	}{
		{"the same", [2]int{low, high}, []supervisor.KeeperProtocol{old, ours, newer}, nil, ""},
		{"newer, and knows the oldest", [2]int{low, high + 1}, []supervisor.KeeperProtocol{old, ours, newer}, nil, ""},
		{"knows only the newest, all are new", [2]int{high, high + 1}, []supervisor.KeeperProtocol{ours, newer}, nil, ""},
		{"older, and knows the oldest", [2]int{low, low}, []supervisor.KeeperProtocol{old, ours}, nil, ""},
		{"has forgotten the oldest", [2]int{low + 1, high + 1}, []supervisor.KeeperProtocol{old, ours}, []string{"chat-0's version 1;", "versions 2 to 3", "stoker restart"}, "chat-1"},
		{"older than one", [2]int{low, low}, []supervisor.KeeperProtocol{old, ours, newer}, []string{"chat-2's versions 2 to 6", "speaks version 1 of"}, "chat-0"},
		{"none lives", [2]int{low + 1, high + 1}, nil, nil, ""},
		{"none lives, but ours may come", [2]int{high + 1, high + 2}, nil, []string{"this master's versions 1 to 2:", "versions 3 to 4"}, ""},
		{"knows neither", [2]int{high + 1, high + 2}, []supervisor.KeeperProtocol{old}, []string{"chat-0's version 1, this master's versions 1 to 2:", "start that one instead"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := preflightReport{Version: "x", KeeperProtocol: tc.speaks}
			err := r.speaksWith(tc.living)
			if (err == nil) != (tc.says == nil) {
				t.Fatalf("said %v", err)
			}
			for _, words := range tc.says {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("said %q, not %q", err, words)
				}
			}
			if tc.not != "" && strings.Contains(err.Error(), tc.not) {
				t.Errorf("said %q, of %s too", err, tc.not)
			}
		})
	}
}
