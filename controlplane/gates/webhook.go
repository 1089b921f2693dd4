// SPDX-License-Identifier: AGPL-3.0-only

package gates

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"time"

	"github.com/arcanesys/nixfleet/controlplane/rollout"
	"github.com/arcanesys/nixfleet/fleet"
	"github.com/arcanesys/nixfleet/internal/config"
)

// question is what a webhook is asked. It is signed: NixFleet-Signature is "v1="
// and the hexadecimal HMAC-SHA256 of NixFleet-Timestamp, a dot and the body. A
// receiver refuses a timestamp that is minutes old, and an id that it has
// answered.
type question struct {
	ID       string            `json:"id"`
	Gate     fleet.GateName    `json:"gate"`
	Rollout  fleet.RolloutID   `json:"rollout"`
	Release  fleet.Digest      `json:"release"`
	Batch    int               `json:"batch"` // from 1
	Machines []fleet.MachineID `json:"machines"`
	Asked    int               `json:"asked"` // which time it is
}

// verdict is what a webhook answers. ID is that of the question: the answer to
// another one does not count.
type verdict struct {
	ID      string           `json:"id"`
	Answer  fleet.GateAnswer `json:"answer"`
	Message string           `json:"message"`
}

// minSecret is how long a webhook's secret must be, in bytes.
const minSecret = 16

func askWebhook(ctx context.Context, g config.Gate, p rollout.Probe, now time.Time) (fleet.GateAnswer, string, error) {
	secret, err := os.ReadFile(g.SecretFile)
	if secret = bytes.TrimSpace(secret); err != nil || len(secret) < minSecret {
		return "", "", fleet.Errorf(fleet.Invalid, "secretFile of the gate cannot be read, or has fewer than %d bytes", minSecret)
	}
	q := question{ID: id(p), Gate: p.Gate, Rollout: p.Rollout, Release: p.Release, Batch: p.Batch + 1, Machines: p.Machines, Asked: p.Asked}
	body, err := json.Marshal(q)
	if err != nil {
		return "", "", err
	}
	header := http.Header{
		"Content-Type": {"application/json"}, "Nixfleet-Timestamp": {unix(now)}, "Nixfleet-Signature": {sign(secret, unix(now), body)},
	}
	b, err := post(ctx, g, g.URL, header, body)
	if err != nil {
		return "", "", err
	}
	return decodeVerdict(b, q.ID)
}

// sign makes the signature of a body that is sent at a time.
func sign(secret []byte, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(timestamp + "."))
	mac.Write(body)
	return "v1=" + hex.EncodeToString(mac.Sum(nil))
}

// decodeVerdict reads the answer to a question.
func decodeVerdict(b []byte, id string) (fleet.GateAnswer, string, error) {
	var v verdict
	if err := json.Unmarshal(b, &v); err != nil {
		return "", "", err
	}
	switch {
	case v.ID != id:
		return fleet.GateInconclusive, "its answer is to another question", nil
	case v.Answer != fleet.GatePass && v.Answer != fleet.GateFail && v.Answer != fleet.GateInconclusive:
		return fleet.GateInconclusive, "its answer is none of pass, fail and inconclusive", nil
	}
	return v.Answer, v.Message, nil
}
