package observe

import (
	"errors"
	"fmt"
	"io"

	"go.temporal.io/sdk/log"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"syncline/dataplane/fault"
	"syncline/secrets"
)

// NewLogger writes one JSON object per line to w, with the fields on each.
func NewLogger(w io.Writer, level zapcore.Level, fields ...zap.Field) *zap.Logger {
	enc := zapcore.NewJSONEncoder(zapcore.EncoderConfig{
		TimeKey: "time", LevelKey: "level", NameKey: "logger", MessageKey: "msg", StacktraceKey: "stack",
		EncodeTime: zapcore.RFC3339NanoTimeEncoder, EncodeLevel: zapcore.LowercaseLevelEncoder,
		EncodeDuration: zapcore.SecondsDurationEncoder, EncodeName: zapcore.FullNameEncoder,
		LineEnding: zapcore.DefaultLineEnding,
	})
	core := zapcore.NewCore(enc, zapcore.Lock(zapcore.AddSync(w)), level)
	return zap.New(redacting{core}, zap.AddStacktrace(zap.DPanicLevel), zap.Fields(fields...))
}

// redacting takes connection strings out of messages and errors. Nobody should
// log them; drivers quote them all the same.
type redacting struct{ zapcore.Core }

func (c redacting) With(fields []zapcore.Field) zapcore.Core {
	return redacting{c.Core.With(redactFields(fields))}
}

func (c redacting) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c redacting) Write(e zapcore.Entry, fields []zapcore.Field) error {
	e.Message = secrets.Redact(e.Message)
	return c.Core.Write(e, redactFields(fields))
}

func redactFields(in []zapcore.Field) []zapcore.Field {
	out := make([]zapcore.Field, 0, len(in)+2)
	for _, f := range in {
		switch f.Type {
		case zapcore.StringType:
			f.String = secrets.Redact(f.String)
		case zapcore.StringerType:
			f = zap.String(f.Key, secrets.Redact(fmt.Sprint(f.Interface)))
		case zapcore.ErrorType:
			err, _ := f.Interface.(error)
			var named *fault.Error
			if errors.As(err, &named) {
				out = append(out, zap.String(f.Key+"_code", string(named.Code)), zap.Bool(f.Key+"_retry", named.Retry))
			}
			// As text, since zap would print an error's verbose form beside it.
			f = zap.String(f.Key, secrets.Redact(fmt.Sprint(err)))
		}
		out = append(out, f)
	}
	return out
}

// sdkNames are the SDK's names for fields that we write under other names.
var sdkNames = map[string]string{
	"Namespace": "namespace", "TaskQueue": "task_queue", "WorkerID": "worker_id",
	"WorkflowID": "workflow_id", "RunID": "run_id", "WorkflowType": "workflow_type",
	"ActivityID": "activity_id", "ActivityType": "activity_type", "Attempt": "attempt",
	"Error": "error", "StackTrace": "stack",
}

type temporalLogger struct{ z *zap.Logger }

var (
	_ log.WithLogger      = temporalLogger{}
	_ log.WithSkipCallers = temporalLogger{}
)

// TemporalLogger lets the SDK log through z, with our names of fields.
func TemporalLogger(z *zap.Logger) log.Logger { return temporalLogger{z.Named("temporal")} }

func (l temporalLogger) Debug(msg string, kv ...any) { l.write(zap.DebugLevel, msg, kv) }
func (l temporalLogger) Info(msg string, kv ...any)  { l.write(zap.InfoLevel, msg, kv) }
func (l temporalLogger) Warn(msg string, kv ...any)  { l.write(zap.WarnLevel, msg, kv) }
func (l temporalLogger) Error(msg string, kv ...any) { l.write(zap.ErrorLevel, msg, kv) }

func (l temporalLogger) With(kv ...any) log.Logger { return temporalLogger{l.z.With(pairs(kv)...)} }
func (l temporalLogger) WithCallerSkip(n int) log.Logger {
	return temporalLogger{l.z.WithOptions(zap.AddCallerSkip(n))}
}

func (l temporalLogger) write(level zapcore.Level, msg string, kv []any) {
	if ce := l.z.Check(level, msg); ce != nil {
		ce.Write(pairs(kv)...)
	}
}

// pairs turns the SDK's alternating names and values into fields.
func pairs(kv []any) []zap.Field {
	out := make([]zap.Field, 0, len(kv)/2+1)
	for i := 0; i < len(kv); i += 2 {
		if f, ok := kv[i].(zap.Field); ok {
			out = append(out, f)
			i--
			continue
		}
		name := fmt.Sprint(kv[i])
		if ours, ok := sdkNames[name]; ok {
			name = ours
		}
		if i+1 == len(kv) {
			out = append(out, zap.String(name, "(no value)"))
			break
		}
		switch v := kv[i+1].(type) {
		case error:
			out = append(out, zap.NamedError(name, v))
		case string:
			out = append(out, zap.String(name, v))
		default:
			out = append(out, zap.Any(name, v))
		}
	}
	return out
}
