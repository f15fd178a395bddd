package clickhouse

// storedValue is a value as the sink holds it, in the text that ClickHouse
// prints, or as lists of such texts for arrays and maps.
type storedValue struct {
	text  *string
	list  []*string
	keys  []string
	exact *string // the column's entry in _exact
}

// fill appends a stored value.
func (b *block) fill(i int, v storedValue) error {
	c := &b.lay.cols[i]
	var err error
	switch e := b.cols[i].(type) {
	case *array:
		err = e.list(v.list)
	case *pairs:
		e.list(v.keys, v.list)
	default:
		if v.text != nil {
			err = e.stored([]byte(*v.text))
		} else {
			b.null(i)
		}
	}
	if err == nil && v.exact != nil && !b.exact.has(c.name) {
		b.exact.put(c.name, []byte(*v.exact))
	}
	return err
}
