// Package docs holds the documentation beside README, and the tests that keep
// it true: reference.md is printed from the tables that the code reads, and
// errors.md has every code that the code can give.
package docs
