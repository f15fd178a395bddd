package aggregate

import "math"

// Accuracy is the relative error of quantiles.
const Accuracy = 0.01

// Gamma is the factor from one bucket's bound to the next: bucket i holds what is above
// Gamma^(i-1), and at most Gamma^i.
const Gamma = (1 + Accuracy) / (1 - Accuracy)

// KeyOffset is what is added to a bucket's number for its key, so that keys of positive
// values are above 0, which is that of zero, and with a minus sign those of negative values.
// Keys are in the order of their values.
const KeyOffset = 100_000

var logGamma = math.Log(Gamma)

// sketchKey returns the key of the bucket of a finite value.
func sketchKey(v float64) int32 {
	switch {
	case v > 0:
		return KeyOffset + int32(math.Ceil(math.Log(v)/logGamma))
	case v < 0:
		return -sketchKey(-v)
	}
	return 0
}

// KeyValue returns the value that stands for those of a bucket.
func KeyValue(key int32) float64 {
	switch {
	case key > 0:
		return 2 / (Gamma + 1) * math.Pow(Gamma, float64(key-KeyOffset))
	case key < 0:
		return -KeyValue(-key)
	}
	return 0
}
