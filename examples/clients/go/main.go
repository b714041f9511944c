// Emit events to Stagekeeper from Go: `go run . BROKERS < events.jsonl`, one event a line, each a CloudEvent as
// docs/events.md has them. `go run . BROKERS recommendations` prints what Stagekeeper recommends, and ends where the
// topic ends.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const recommendations = "agent.recommendations"

var topicOfType = map[string]string{
	"stagekeeper.action.decided.v1":  "agent.decisions",
	"stagekeeper.action.executed.v1": "agent.outcomes",
	"stagekeeper.action.undone.v1":   "agent.outcomes",
	"stagekeeper.action.impact.v1":   "agent.outcomes",
	"stagekeeper.review.resolved.v1": "agent.reviews",
	"stagekeeper.policy.changed.v1":  "agent.policy-changes",
}

func main() {
	brokers := kgo.SeedBrokers(strings.Split(os.Args[1], ",")...)
	var err error
	if len(os.Args) > 2 && os.Args[2] == "recommendations" {
		err = print(context.Background(), brokers)
	} else {
		err = emit(context.Background(), brokers)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func emit(ctx context.Context, brokers kgo.Opt) error {
	client, err := kgo.NewClient(brokers) // idempotent, and acknowledged by all replicas, unless told otherwise
	if err != nil {
		return err
	}
	defer client.Close()
	var records []*kgo.Record
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1_000_000)
	for lines.Scan() {
		var event struct{ Type, Subject string }
		value := []byte(lines.Text())
		if err := json.Unmarshal(value, &event); err != nil {
			return err
		}
		header := kgo.RecordHeader{
			Key: "content-type", Value: []byte("application/cloudevents+json; charset=UTF-8"),
		}
		records = append(records, &kgo.Record{
			Topic: topicOfType[event.Type], Key: []byte(event.Subject), Value: value,
			Headers: []kgo.RecordHeader{header},
		})
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return client.ProduceSync(ctx, records...).FirstErr()
}

func print(ctx context.Context, brokers kgo.Opt) error {
	start := kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())
	client, err := kgo.NewClient(brokers, kgo.ConsumeTopics(recommendations), start)
	if err != nil {
		return err
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, recommendations)
	if err != nil {
		return err
	}
	end, _ := ends.Lookup(recommendations, 0)
	for reached := int64(0); reached < end.Offset; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(record *kgo.Record) {
			fmt.Println(string(record.Value))
			reached = record.Offset + 1
		})
	}
	return nil
}
