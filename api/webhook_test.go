// SPDX-License-Identifier: MIT

package api_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/arcanesys/nixfleet/api"
	"github.com/arcanesys/nixfleet/fleet"
)

func webhookHeader(id, stamp, signature string) http.Header {
	h := http.Header{}
	h.Set(api.WebhookIDHeader, id)
	h.Set(api.WebhookTimestampHeader, stamp)
	h.Set(api.WebhookSignatureHeader, signature)
	return h
}

func TestVerifyWebhook_TakesWhatWasSignedNow(t *testing.T) {
	key, body, at := []byte("0123456789abcdef"), []byte(`{"a":1}`), time.Unix(1_800_000_000, 0)
	secret, signature := api.WebhookSecret(key), api.SignWebhook(key, "m1", at, body)
	h := webhookHeader("m1", "1800000000", "v1a,x v1,y "+signature)
	if err := api.VerifyWebhook(secret, h, body, at.Add(time.Minute)); err != nil {
		t.Error(err)
	}
	dotted := api.SignWebhook(key, "m1.2", at, body)
	for what, err := range map[string]error{
		"another body":         api.VerifyWebhook(secret, h, []byte(`{"a":2}`), at),
		"another secret":       api.VerifyWebhook(api.WebhookSecret([]byte("another 16 bytes")), h, body, at),
		"six minutes ago":      api.VerifyWebhook(secret, h, body, at.Add(6*time.Minute)),
		"in six minutes":       api.VerifyWebhook(secret, h, body, at.Add(-6*time.Minute)),
		"another id":           api.VerifyWebhook(secret, webhookHeader("m2", "1800000000", signature), body, at),
		"another time":         api.VerifyWebhook(secret, webhookHeader("m1", "1800000001", signature), body, at),
		"a time with a sign":   api.VerifyWebhook(secret, webhookHeader("m1", "+1800000000", signature), body, at),
		"an id with a dot":     api.VerifyWebhook(secret, webhookHeader("m1.2", "1800000000", dotted), body, at),
		"no headers":           api.VerifyWebhook(secret, http.Header{}, body, at),
		"half a signature":     api.VerifyWebhook(secret, webhookHeader("m1", "1800000000", signature[:20]), body, at),
		"without the version":  api.VerifyWebhook(secret, webhookHeader("m1", "1800000000", strings.TrimPrefix(signature, "v1,")), body, at),
		"of another algorithm": api.VerifyWebhook(secret, webhookHeader("m1", "1800000000", "v2"+signature[2:]), body, at),
	} {
		if fleet.ErrorCode(err) != fleet.Unauthenticated {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, none := range []string{"", "whsec_", "whsec_!", api.WebhookSecret([]byte("short"))} {
		key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(none, "whsec_"))
		if err := api.VerifyWebhook(none, webhookHeader("m1", "1800000000", api.SignWebhook(key, "m1", at, body)), body, at); fleet.ErrorCode(err) != fleet.Invalid {
			t.Errorf("the secret %q: %v", none, err)
		}
	}
	// As another program reckons it.
	if got, want := api.SignWebhook([]byte("key"), "msg", time.Unix(1, 0), []byte("{}")), "v1,VXpyVGOoxULcmU0S3bPQiNWEXqcjjs6ObOAKC5Sbeis="; got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

// FuzzVerifyWebhook reads what anybody may send to a receiver: it takes only what has
// the signature of its id, time and body.
func FuzzVerifyWebhook(f *testing.F) {
	key, now := []byte("0123456789abcdef"), time.Unix(1_800_000_000, 0)
	secret := api.WebhookSecret(key)
	signed := api.SignWebhook(key, "m1", now, []byte("{}"))
	f.Add(secret, "m1", "1800000000", signed, []byte("{}"))
	f.Add(secret, "m1.1800000000", "1800000000", "v1,x "+signed, []byte("{}"))
	f.Add(secret, "", "-9223372036854775808", "", []byte(nil))
	f.Add("whsec_", "m1", "9223372036854775807", "v1,", []byte("{}"))
	f.Add("", "m1", "01800000000", " ", []byte("\x00"))
	f.Fuzz(func(t *testing.T, secret, id, stamp, signature string, body []byte) {
		err := api.VerifyWebhook(secret, webhookHeader(id, stamp, signature), body, now)
		if code := fleet.ErrorCode(err); err != nil {
			if code != fleet.Unauthenticated && code != fleet.Invalid {
				t.Fatalf("refused with the code %s: %v", code, err)
			}
			return
		}
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		seconds, unread := strconv.ParseInt(stamp, 10, 64)
		if err != nil || unread != nil || len(key) < 16 || seconds < now.Unix()-300 || seconds > now.Unix()+300 {
			t.Fatalf("taken with the secret %q and the time %q", secret, stamp)
		}
		m := hmac.New(sha256.New, key)
		m.Write([]byte(id + "." + stamp + "." + string(body)))
		if !strings.Contains(signature, base64.StdEncoding.EncodeToString(m.Sum(nil))) {
			t.Fatalf("taken with the signature %q", signature)
		}
	})
}
