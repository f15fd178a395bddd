// Package board describes what people look at when they run Syncline: alerts with
// the rules behind them, and dashboards. docker/prometheus/rules.yml, its tests and
// docker/grafana are printed from here, and the tests hold the runbooks, the metrics
// and the tables to the same description.
//
// A time in braces, as in rate(x[{5m}]), is one that a test may shorten.
package board

//go:generate go run ./generate -to ../../docker
