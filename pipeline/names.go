package pipeline

import (
	"fmt"
	"regexp"
	"strings"
)

var region = regexp.MustCompile(regionPattern)

// CheckRegion says what is wrong with the name of a region.
func CheckRegion(name string) error {
	if !region.MatchString(name) {
		return fmt.Errorf("is %q, not %s", name, regionWant)
	}
	return nil
}

// derivedName keeps different pipelines apart: names have no underscore.
func derivedName(name string) string { return "syncline_" + strings.ReplaceAll(name, "-", "_") }

// SlotName is the source's replication slot.
func (s *Spec) SlotName() string {
	if s.Source.Slot != "" {
		return s.Source.Slot
	}
	return derivedName(s.Name)
}

// PublicationName is the source's publication.
func (s *Spec) PublicationName() string {
	if s.Source.Publication != "" {
		return s.Source.Publication
	}
	return derivedName(s.Name)
}

// TopicPrefix begins the name of every topic of the pipeline, with a dot at its end.
func (s *Spec) TopicPrefix() string { return s.Kafka.TopicPrefix + s.Name + "." }

// Sink returns the named sink, or nil.
func (s *Spec) Sink(name string) *Sink {
	for i := range s.Sinks {
		if s.Sinks[i].Name == name {
			return &s.Sinks[i]
		}
	}
	return nil
}
