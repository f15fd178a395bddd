// Package shop is the database of the demo and of the end-to-end tests: an
// invented shop on Postgres, in schema "shop".
//
// Seed fills it on the server, from series and hashes, so that the same scale
// gives the same rows everywhere. Load changes it steadily: every transaction
// keeps the foreign keys, adds one to the column "version" of each row that it
// updates, and moves money between accounts without making or losing any. A
// checker can therefore ask of a copy whether a version went back and whether
// the accounts still hold Total.
package shop
