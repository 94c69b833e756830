package keeper

// Versions is the range of the protocol's versions that this program speaks.
func Versions() (lowest, highest int) { return minVersion, maxVersion }
