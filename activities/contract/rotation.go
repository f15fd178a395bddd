package contract

import (
	"time"

	"syncline/pipeline"
	"syncline/secrets"
)

// RotateWorkflow gives a login another user and password, at every server and in every
// worker. Its id is that of RotationID, so that there is one at a time.
const RotateWorkflow = "RotateSecret" // RotateInput → Rotated

// Updates of a RotateSecret.
const (
	RollbackUpdate    = "rollback"     // put the old login in force again, as long as nothing of it is revoked
	DeclareGoneUpdate = "declare-gone" // string: a worker, or target/<name>, that is not waited for any longer
	EndSessionsUpdate = "end-sessions" // end what the servers show of the old login, whoever it is
)

// Activities of a rotation. The first run on the control queue, the others on the queue
// of each worker itself (OwnQueue).
const (
	OpenRotationActivity  = "OpenRotation"  // RotationTask → RotationOpened
	FindConsumersActivity = "FindConsumers" // RotationTask → []Consumer
	StageLoginActivity    = "StageLogin"    // RotationTask → RotationPoint
	SetLoginActivity      = "SetLogin"      // RotationStep → none
	PromoteLoginActivity  = "PromoteLogin"  // RotationTask → RotationPoint
	LoginSessionsActivity = "LoginSessions" // RotationStep → LoginSessions
	DisableLoginActivity  = "DisableLogin"  // RotationStep → none
	CloseRotationActivity = "CloseRotation" // RotationTask → none
	NoteRotationActivity  = "NoteRotation"  // RotationNote → none

	LoginStateActivity  = "LoginState"  // RotationTask → ConsumerState
	VerifyLoginActivity = "VerifyLogin" // RotationStep → ConsumerState
	AdoptLoginActivity  = "AdoptLogin"  // RotationStep → ConsumerState
)

// Types of the errors of a rotation.
const (
	RotationFailedError     = "RotationFailed"     // it did not come to its end; all is as before
	RotationRolledBackError = "RotationRolledBack" // it was promoted, and put back
	ConsumerFailedError     = "ConsumerFailed"     // a worker cannot use the new login
)

// RotationID is the workflow of a login's rotation.
func RotationID(l secrets.LoginRef) string { return "rotate/" + l.Path() }

// RotationPlanID is the workflow that says what a rotation would do: a plan locks nothing,
// and is no rotation that anybody looks for.
func RotationPlanID(l secrets.LoginRef) string { return "rotate-plan/" + l.Path() }

// FleetQueue is polled by every worker, whatever its roles and its version: who polls it
// is alive.
func FleetQueue(prefix string) string { return prefix + "-fleet" }

// OwnQueue is the task queue of one worker process, for what has to be done from where it runs.
func OwnQueue(prefix, identity string) string { return prefix + "-worker/" + identity }

// RotateInput starts a RotateSecret.
type RotateInput struct {
	Rotation pipeline.Rotation `json:"rotation"`
	Who      string            `json:"who,omitempty"`
	Reason   string            `json:"reason,omitempty"`
	// Plan only says what would be done, and whether it could be.
	Plan bool `json:"plan,omitempty"`
	// Init is the second user, of a login that is not one of two yet.
	Init string `json:"init,omitempty"`
	// Leaked: the old password is known to others. Sessions of it are ended, not waited for,
	// once all workers have left it.
	Leaked bool `json:"leaked,omitempty"`
	// Scheduled: a Schedule gives each run an id of its own; one of RotationID, of which
	// there is one at a time, rotates for it.
	Scheduled bool `json:"scheduled,omitempty"`
	// BreakLock is a rotation that was left off and whose lock is to be taken.
	BreakLock string `json:"break_lock,omitempty"`
}

// RotationPhase is how far a rotation is.
type RotationPhase string

// The phases, in order; those after Revoked are the ways back and the ends.
const (
	RotationPreflight    RotationPhase = "preflight" // all workers on the generation in force, all servers reachable, all rights there
	RotationStaging      RotationPhase = "staging"   // the new password is written to Vault
	RotationSetting      RotationPhase = "setting"   // the idle user gets it at every target
	RotationVerifying    RotationPhase = "verifying" // every worker logs in with it, and does what it needs it for
	RotationPromoting    RotationPhase = "promoting" // the pointer is moved
	RotationAdopting     RotationPhase = "adopting"  // every worker moves its connections
	RotationRevoking     RotationPhase = "revoking"  // the old user is disabled
	RotationCompensating RotationPhase = "compensating"
	RotationRollingBack  RotationPhase = "rolling-back"
	RotationDone         RotationPhase = "done"
)

// RotationTask is a rotation, as its activities get it.
type RotationTask struct {
	RotateInput
	Run  string        `json:"run"`
	From RotationPoint `json:"from,omitzero"` // in force, locked
	To   RotationPoint `json:"to,omitzero"`   // to be in force
	Uses []LoginUse    `json:"uses,omitempty"`
}

// RotationPoint is a pointer with its own version, or what it is to become.
type RotationPoint struct {
	secrets.Pointer
	At   int    `json:"at,omitempty"`
	User string `json:"user,omitempty"`
}

// RotationStep is a task for one target, or one worker.
type RotationStep struct {
	RotationTask
	Target  string        `json:"target,omitempty"`
	Subject RotationPoint `json:"subject"`       // the login that it is about
	End     bool          `json:"end,omitempty"` // its sessions

	Gone []string `json:"gone,omitempty"` // targets that were declared gone, and no worker has to reach
}

// LoginUse is a place in a pipeline where a login is used.
type LoginUse struct {
	Pipeline string `json:"pipeline"` // "" of the workers' analytics
	End      string `json:"end"`      // source, kafka, or sink:<name>; or analytics
}

// String names it as tools and messages do.
func (u LoginUse) String() string {
	if u.Pipeline == "" {
		return u.End
	}
	return "pipeline " + u.Pipeline + ", " + u.End
}

// RotationOpened is what a rotation begins with.
type RotationOpened struct {
	From    RotationPoint `json:"from"`
	Idle    string        `json:"idle"` // user that is to be in force
	Uses    []LoginUse    `json:"uses"`
	Targets []string      `json:"targets"`
}

// Consumer is a worker that may use a login.
type Consumer struct {
	Worker string    `json:"worker"`
	Seen   time.Time `json:"seen"` // when it last asked Temporal for work
}

// ConsumerState is how a worker stands with a login.
type ConsumerState struct {
	Worker string `json:"worker"`
	Region string `json:"region,omitempty"`
	secrets.LoginState
	As   map[string]string `json:"as,omitempty"`   // how each target calls who logs in
	Gone string            `json:"gone,omitempty"` // why it is not waited for
	Held string            `json:"held,omitempty"` // why it is
}

// LoginSessions is what a target shows of a user.
type LoginSessions struct {
	Target string   `json:"target"`
	Known  bool     `json:"known"` // whether it can tell
	Count  int      `json:"count"`
	Of     []string `json:"of,omitempty"` // whose they are, at most ten
}

// Rotated is how a rotation stands, and its result.
type Rotated struct {
	Login     secrets.LoginRef `json:"login"`
	Run       string           `json:"run"`
	Who       string           `json:"who,omitempty"`
	Reason    string           `json:"reason,omitempty"`
	Phase     RotationPhase    `json:"phase"`
	Outcome   string           `json:"outcome,omitempty"` // rotated, planned, compensated, rolled back
	From      RotationPoint    `json:"from,omitzero"`
	To        RotationPoint    `json:"to,omitzero"`
	Targets   []string         `json:"targets"`
	Uses      []LoginUse       `json:"uses"`
	Consumers []ConsumerState  `json:"consumers"`
	Held      string           `json:"held,omitempty"` // what it waits for, beyond its patience
	Failure   *Failure         `json:"failure,omitempty"`
	Left      []string         `json:"left,omitempty"` // what could not be put in order
	Steps     []RotationTook   `json:"steps"`
	Began     time.Time        `json:"began"`
	Ended     time.Time        `json:"ended,omitzero"`
}

// The outcomes of a rotation.
const (
	RotatedOutcome     = "rotated"
	PlannedOutcome     = "planned"
	CompensatedOutcome = "compensated"
	RolledBackOutcome  = "rolled back"
)

// RotationTook is a phase that is over.
type RotationTook struct {
	Phase   RotationPhase `json:"phase"`
	Seconds float64       `json:"seconds"`
}

// RotationNote is what is recorded of a rotation beside its steps.
type RotationNote struct {
	RotationTask
	Result Rotated `json:"result"`
}
