// Package cost puts prices on bytes.
//
// # Price table
//
// A Table has a price for each route from region to region, and for each place where
// bytes are stored. Prices have dates. The first entry that matches a route, or a place,
// decides, as in classify: a narrow one comes before a wide one. A region that nobody
// said matches no pattern, but the word Unknown: that it costs what some known route
// costs would be a guess.
//
// # Exactness
//
// Prices, quantities and costs are decimal numbers, and are never rounded on the way: a
// byte is 10^-9 GB, or exactly 2^-30 GiB. The one division without an exact result is
// that of a price by the month, whose price by the hour is a 730th, rounded to
// HourDigits. So the sum of charges is the charge of the sum wherever the price is the
// same, whatever the hours are cut into. Of an hour within which a price changes, each
// price gets its share of the hour's bytes, in whole bytes, and no byte is lost.
//
// # Failure
//
// The package is pure and cannot fail. What has no price becomes a charge without one
// (Charge.Price is nil), which costs nothing and must be shown as what it is. Check finds
// the mistakes of a table.
package cost
