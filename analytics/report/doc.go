// Package report is what a report on a pipeline holds: ten indicators, its
// objectives with their error budgets, and how complete the counts are. It has the
// definitions, the arithmetic and the words for numbers, and knows no database:
// package indicators fills it in, and tools that only show it need nothing else.
//
// A number that nobody measured is nil and has a reason beside it. It is never 0:
// that no error was seen where nothing was counted says nothing.
package report
