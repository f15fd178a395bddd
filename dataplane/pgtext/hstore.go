package pgtext

// Pair of an hstore.
type Pair struct {
	Key   []byte
	Value []byte
	Null  bool
}

// Hstore is a parsed hstore. Its buffers are reused by the next Parse.
type Hstore struct {
	Pairs []Pair
	buf   []byte
}

// Parse reads the form that hstore prints: "a"=>"1", "b"=>NULL. Pairs point
// into h's own buffer, until the next Parse.
func (h *Hstore) Parse(b []byte) error {
	const form = "hstore"
	h.Pairs, h.buf = h.Pairs[:0], h.buf[:0]
	if len(b) == 0 {
		return nil
	}
	if cap(h.buf) < len(b) {
		h.buf = make([]byte, 0, len(b)) // never grows below, so that Pairs stay valid
	}
	for i := 0; ; {
		key, n, err := h.quoted(b, i)
		if err != nil {
			return err
		}
		if i = n; i+2 > len(b) || b[i] != '=' || b[i+1] != '>' {
			return bad(form, i, "want => after a key")
		}
		i += 2
		p := Pair{Key: key}
		if i+4 <= len(b) && isNull(b[i:i+4]) {
			p.Null = true
			i += 4
		} else if p.Value, i, err = h.quoted(b, i); err != nil {
			return err
		}
		h.Pairs = append(h.Pairs, p)
		if i == len(b) {
			return nil
		}
		if b[i] != ',' {
			return bad(form, i, "want a comma after a pair")
		}
		for i++; i < len(b) && b[i] == ' '; i++ {
		}
	}
}

func (h *Hstore) quoted(b []byte, i int) ([]byte, int, error) {
	const form = "hstore"
	if i >= len(b) || b[i] != '"' {
		return nil, i, bad(form, i, "want a quote")
	}
	start := len(h.buf)
	for i++; i < len(b); i++ {
		c := b[i]
		if c == '"' {
			return h.buf[start:len(h.buf):len(h.buf)], i + 1, nil
		}
		if c == '\\' {
			if i++; i >= len(b) {
				break
			}
			c = b[i]
		}
		h.buf = append(h.buf, c)
	}
	return nil, i, bad(form, i, "quoted text does not end")
}
