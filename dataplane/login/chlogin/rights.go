package chlogin

import (
	"errors"

	ch "github.com/ClickHouse/clickhouse-go/v2"
)

// syntaxError is ClickHouse's code of a statement that it does not know.
const syntaxError = 62

// May asks, by a function that reads the one value of an answer, whether a login has a
// right, such as INSERT on db.*. Servers older than 24.11 cannot be asked: known is false.
func May(one func(query string, into any) error, right, on string) (may, known bool, err error) {
	var has uint8
	err = one("CHECK GRANT "+right+" ON "+on, &has)
	var ex *ch.Exception
	if errors.As(err, &ex) && ex.Code == syntaxError {
		return false, false, nil
	}
	return has != 0, err == nil, err
}
