// Package config is the configuration of a worker, which is its environment and
// nothing else. Every variable is declared once, in the table of settings, with
// its default and its meaning; Load reads by that table, Reference prints it for
// README, and a test holds docker/compose.yaml against it.
//
// Load reports every mistake at once. A SYNCLINE_ variable that nobody reads is
// a mistake too, since it is most likely a misspelt one. Values are not repeated
// in messages where they could be secret.
package config
