package codec

import (
	"context"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"syncline/dataplane/fault"
)

// Apply makes a client, and the workers that use it, go through the codec.
func (c *Codec) Apply(o *client.Options) {
	// Reading the keyring again may take longer than a workflow may compute.
	dc := workflow.DataConverterWithoutDeadlockDetection(dataConverter{converter.NewCodecDataConverter(converter.GetDefaultDataConverter(), c)})
	o.DataConverter = dc
	failures := func(sealed bool) converter.FailureConverter {
		return temporal.NewDefaultFailureConverter(temporal.DefaultFailureConverterOptions{DataConverter: dc, EncodeCommonAttributes: sealed})
	}
	o.FailureConverter = failureConverter{FailureConverter: failures(false), sealed: failures(true), codec: c}
}

// failureConverter puts texts of failures into payloads while payloads are encrypted.
// Reading, it takes both.
type failureConverter struct {
	converter.FailureConverter
	sealed converter.FailureConverter
	codec  *Codec
}

func (f failureConverter) ErrorToFailure(err error) *failurepb.Failure {
	if f.codec.encrypts() {
		return f.sealed.ErrorToFailure(err)
	}
	return f.FailureConverter.ErrorToFailure(err)
}

// dataConverter tells workflows apart from the rest.
type dataConverter struct{ converter.DataConverter }

var _ workflow.ContextAware = dataConverter{}

func (d dataConverter) WithContext(context.Context) converter.DataConverter { return d }

func (d dataConverter) WithWorkflowContext(workflow.Context) converter.DataConverter {
	return inWorkflow(d)
}

// inWorkflow holds the workflow's task up where an error would end the workflow.
type inWorkflow struct{ converter.DataConverter }

func hold(err error) error {
	switch fault.CodeOf(err) {
	case CodeKeyUnknown, CodeKeysUnset, CodeDamaged:
		panic(err)
	}
	return err
}

func (d inWorkflow) FromPayload(p *commonpb.Payload, v any) error {
	return hold(d.DataConverter.FromPayload(p, v))
}

func (d inWorkflow) FromPayloads(ps *commonpb.Payloads, vs ...any) error {
	return hold(d.DataConverter.FromPayloads(ps, vs...))
}

// Client is a client that tells how it reads payloads, for what it hands out as they are.
type Client struct {
	client.Client
	Converter converter.DataConverter
}

// ConverterOf is how a client reads payloads.
func ConverterOf(c client.Client) converter.DataConverter {
	if c, ok := c.(Client); ok {
		return c.Converter
	}
	return converter.GetDefaultDataConverter()
}
