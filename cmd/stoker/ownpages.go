package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// readOwnPages has the kernel map the whole program, code and constants. Else a
// page is read when it is first used, and what is first used when an engine dies
// would come, in the middle of requests, from a disk that reads the weights of
// the next engine, which have driven everything else from the page cache. It
// also lets the memory that is resident at the beginning be what it is later.
// Kernels before 5.14 refuse; then pages come as they are used.
func readOwnPages() {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		line = strings.TrimSuffix(line, "\n")
		var start, end uintptr
		var perms string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &start, &end, &perms); err != nil {
			continue
		}
		if strings.HasSuffix(line, " "+exe) && !strings.Contains(perms, "w") {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_POPULATE_READ)
		}
	}
}
