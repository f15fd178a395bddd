package stack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Users are those of a ClickHouse server. The stack's engine has no place to keep users, so
// that a gate before its HTTP interface does: it asks for passwords, refuses as a server
// does, and takes the statements that make users and change them, as the engine's own
// parser reads them. All other statements run in the engine, which takes everybody for one.
type Users struct {
	URL string // of the gate, without user and password
	// Break, if set before the gate is used, is asked before each statement what goes wrong
	// with it: 0 is nothing, Cut that the connection ends, another the code of an exception.
	Break func(statement string) int

	engine string
	proxy  http.Handler

	mu    sync.Mutex
	users map[string]*clickUser
}

// Cut ends a connection without an answer.
const Cut = -1

// clickUser is one of them.
type clickUser struct {
	hash, salt string
	admin      bool
	denied     map[string]bool // rights
	running    int             // statements
}

// NewUsers opens a gate before the server of a connection string, with one user who may
// alter the others.
func NewUsers(t testing.TB, dsn, admin, password string) *Users {
	t.Helper()
	at, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &Users{engine: "http://" + at.Host, users: map[string]*clickUser{}}
	u.proxy = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: at.Host})
	u.Put(admin, password)
	u.users[admin].admin = true
	srv := &http.Server{Handler: u}
	go func() { _ = srv.Serve(l) }() // it ends with the test
	t.Cleanup(func() { _ = srv.Close() })
	at.User, at.Host = nil, l.Addr().String()
	u.URL = at.String()
	return u
}

// Put makes a user, or gives it another password.
func (u *Users) Put(user, password string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.set(user, hashed(password, "salt"), "salt")
}

// set is called with the lock held.
func (u *Users) set(user, hash, salt string) {
	if u.users[user] == nil {
		u.users[user] = &clickUser{}
	}
	u.users[user].hash, u.users[user].salt = hash, salt
}

// Deny takes a right from a user, such as INSERT, as far as the user can ask about it.
func (u *Users) Deny(user, right string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.users[user].denied == nil {
		u.users[user].denied = map[string]bool{}
	}
	u.users[user].denied[right] = true
}

// Grant gives it back.
func (u *Users) Grant(user, right string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.users[user].denied, right)
}

// Allows reports whether a password is that of a user.
func (u *Users) Allows(user, password string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	x := u.users[user]
	return x != nil && x.hash == hashed(password, x.salt)
}

// may answers a statement that asks for a right, if it is not the engine that knows.
func (u *Users) may(user, statement string) (may, known bool) {
	right, _, is := strings.Cut(strings.TrimPrefix(statement, "CHECK GRANT "), " ON ")
	if !is || !strings.HasPrefix(statement, "CHECK GRANT ") {
		return false, false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	x := u.users[user]
	if strings.HasSuffix(right, " USER") {
		return x != nil && x.admin, true
	}
	return false, x != nil && x.denied[right]
}

// Running is how many statements of a user run.
func (u *Users) Running(user string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	if x := u.users[user]; x != nil {
		return x.running
	}
	return 0
}

func hashed(password, salt string) string {
	sum := sha256.Sum256([]byte(password + salt))
	return hex.EncodeToString(sum[:])
}

func refuse(w http.ResponseWriter, status, code int, text string) {
	w.Header().Set("X-ClickHouse-Exception-Code", fmt.Sprint(code))
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "Code: %d. DB::Exception: %s", code, text)
}

// ServeHTTP asks for the password, and gives the engine what is not about users.
func (u *Users) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, password, _ := r.BasicAuth()
	if key := r.Header.Get("X-ClickHouse-User"); key != "" {
		name, password = key, r.Header.Get("X-ClickHouse-Key")
	}
	if r.URL.Path != "/ping" && !u.Allows(name, password) {
		refuse(w, http.StatusForbidden, 516, name+": Authentication failed: password is incorrect, or there is no user with such name. (AUTHENTICATION_FAILED)")
		return
	}
	r.Header.Del("Authorization")
	r.Header.Del("X-ClickHouse-User")
	r.Header.Del("X-ClickHouse-Key")
	values := r.URL.Query()
	u.mu.Lock()
	if x := u.users[name]; x != nil {
		x.running++
		defer func() {
			u.mu.Lock()
			defer u.mu.Unlock()
			x.running--
		}()
	}
	u.mu.Unlock()
	head, err := io.ReadAll(io.LimitReader(r.Body, 64<<10)) // statements on users are shorter
	if err != nil {
		refuse(w, http.StatusBadRequest, 36, err.Error())
		return
	}
	if u.Break != nil {
		switch code := u.Break(string(head)); code {
		case 0:
		case Cut:
			panic(http.ErrAbortHandler) // which is how a handler ends a connection
		default:
			refuse(w, http.StatusInternalServerError, code, "the statement was made to fail")
			return
		}
	}
	if may, known := u.may(name, string(head)); known {
		head = []byte(fmt.Sprintf("SELECT toUInt8(%t) AS result", may))
		r.ContentLength = int64(len(head))
	}
	if bytes.Contains(head, []byte("USER ")) && values.Get("query") == "" {
		if parsed, err := Ask(r.Context(), u.engine, "SELECT formatQuerySingleLine('"+escape.Replace(string(head))+"') FORMAT TSVRaw"); err == nil {
			if done := u.statement(w, name, strings.TrimSpace(parsed)); done {
				return
			}
		}
	}
	// Whose statement it is stays with it, for system.processes.
	if q := values.Get("query"); q != "" {
		values.Set("query", mark(name)+q)
		r.URL.RawQuery = values.Encode()
	} else {
		text := mark(name) + u.seenBy(name, string(head))
		if r.ContentLength >= 0 {
			r.ContentLength += int64(len(text) - len(head))
		}
		head = []byte(text)
	}
	r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(head), r.Body))
	u.proxy.ServeHTTP(w, r)
}

var (
	escape   = strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	unescape = strings.NewReplacer(`\\`, `\`, "\\`", "`", `\'`, `'`)
	killed   = regexp.MustCompile(`^KILL QUERY WHERE user = '((?:\\.|[^'])*)'`)
)

// userStatement is one as the engine's parser writes it.
var userStatement = regexp.MustCompile(`^(CREATE|ALTER|DROP) USER (IF (?:NOT )?EXISTS )?(` + "`(?:\\\\.|[^`])*`" + `|\S+)(?: IDENTIFIED WITH (sha256_hash|sha256_password) BY '([^']*)'(?: SALT '([^']*)')?)?$`)

// statement takes one on users, and reports whether it was one.
func (u *Users) statement(w http.ResponseWriter, by, parsed string) bool {
	m := userStatement.FindStringSubmatch(parsed)
	if m == nil {
		return false
	}
	verb, maybe, user := m[1], m[2] != "", unescape.Replace(strings.Trim(m[3], "`"))
	u.mu.Lock()
	defer u.mu.Unlock()
	hash, salt := m[5], m[6]
	if m[4] == "sha256_password" {
		hash = hashed(m[5], salt)
	}
	switch known := u.users[user] != nil; {
	case u.users[by] == nil || !u.users[by].admin:
		refuse(w, http.StatusForbidden, 497, by+": Not enough privileges. To execute this query, it's necessary to have the grant "+verb+" USER ON *.*. (ACCESS_DENIED)")
	case known == (verb == "CREATE") && !maybe:
		refuse(w, http.StatusNotFound, map[bool]int{true: 493, false: 192}[known], "user `"+user+"`")
	case verb == "DROP":
		delete(u.users, user)
	default:
		u.set(user, strings.ToLower(hash), salt)
	}
	return true
}

func mark(user string) string { return "/*user:" + hex.EncodeToString([]byte(user)) + "*/" }

// seenBy is a statement with what the engine cannot know of its users.
func (u *Users) seenBy(name, text string) string {
	if m := killed.FindStringSubmatch(text); m != nil {
		return "KILL QUERY WHERE startsWith(query, '" + mark(unescape.Replace(m[1])) + "')" + text[len(m[0]):]
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	var rows []string
	for _, user := range slices.Sorted(maps.Keys(u.users)) {
		rows = append(rows, "('"+escape.Replace(user)+"', 'local_directory')")
	}
	return strings.NewReplacer(
		"currentUser()", "'"+escape.Replace(name)+"'",
		"system.users", "values('name String, storage String', "+strings.Join(rows, ", ")+")",
		"system.processes", "(SELECT * REPLACE (unhex(extract(query, '^/.user:([0-9a-f]*)')) AS user) FROM system.processes)",
	).Replace(text)
}

// Ask sends a statement to a ClickHouse by HTTP, whatever database its URL names, and returns
// the answer.
func Ask(ctx context.Context, dsn, sql string) (string, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return "", err
	}
	u.Path = "/"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(sql))
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s %s", sql, res.Status, b)
	}
	return string(b), err
}
