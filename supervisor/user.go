package supervisor

import (
	"fmt"
	"os"
	"os/user"
	"strconv"

	"stoker/supervisor/keeper"
)

// account is whom engines run as.
type account struct {
	credential keeper.Credential
	// env is what a login would set: with the master's HOME an engine would
	// look for its model cache in root's.
	env map[string]string
}

// lookUpAccount finds a user by name or number; nil when engines run as the master does.
func lookUpAccount(name string) (*account, error) {
	if name == "" {
		return nil, nil //nolint:nilnil // nobody else is an answer, as the comment says
	}
	u, err := user.Lookup(name)
	if err != nil {
		byID, idErr := user.LookupId(name)
		if idErr != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		u = byID
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: uid: %w", name, err)
	}
	if int(uid) == os.Geteuid() {
		return nil, nil //nolint:nilnil // nobody else, as above
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("user %s: only root can start engines as somebody else", name)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: gid: %w", name, err)
	}
	groups, err := groupsOf(u)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", name, err)
	}
	return &account{
		credential: keeper.Credential{UID: uint32(uid), GID: uint32(gid), Groups: groups},
		env:        map[string]string{"HOME": u.HomeDir, "USER": u.Username, "LOGNAME": u.Username},
	}, nil
}

// groupsOf are the supplementary groups: "video" and "render" give access to devices.
func groupsOf(u *user.User) ([]uint32, error) {
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("groups: %w", err)
	}
	groups := make([]uint32, 0, len(ids))
	for _, id := range ids {
		gid, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("group %s: %w", id, err)
		}
		groups = append(groups, uint32(gid))
	}
	return groups, nil
}
