// Package debezium tests what consumers of Debezium-shaped topics find there when
// a real capture writes them: real Postgres, real Kafka, no encoder called by hand.
package debezium
