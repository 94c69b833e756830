package balancer

import (
	"stoker/config"
	"stoker/internal/http1"
)

// fieldChanges are made to the fields of a request or an answer.
type fieldChanges struct {
	remove []string // those to be set included
	append http1.Fields
}

func newFieldChanges(c *config.FieldChanges) fieldChanges {
	f := fieldChanges{remove: append(append([]string(nil), c.Remove...), sortedKeys(c.Set)...)}
	for _, name := range sortedKeys(c.Set) {
		f.append = append(f.append, http1.Field{Name: name, Value: c.Set[name]})
	}
	for _, name := range sortedKeys(c.Add) {
		f.append = append(f.append, http1.Field{Name: name, Value: c.Add[name]})
	}
	return f
}

func (f *fieldChanges) empty() bool { return len(f.remove)+len(f.append) == 0 }

// apply makes the changes, in place where there is room.
func (f *fieldChanges) apply(fields http1.Fields) http1.Fields {
	for _, name := range f.remove {
		fields = fields.Without(name)
	}
	return append(fields, f.append...)
}
