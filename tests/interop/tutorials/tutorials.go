// RabbitMQ's tutorials in Go, with amqp091-go:
// tutorials rpc_client|rpc_server|new_task|worker|emit_log|receive_logs [TEXT]
// https://www.rabbitmq.com/tutorials/tutorial-six-go
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"

	amqp "github.com/rabbitmq/amqp091-go"
)

func check(err error) {
	if err != nil {
		log.Panic(err)
	}
}

func fib(n int) int {
	a, b := 0, 1
	for ; n > 0; n-- {
		a, b = b, a+b
	}
	return a
}

var channel *amqp.Channel

func durable(name string) {
	_, err := channel.QueueDeclare(name, true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
	check(err)
}

func exclusive() string {
	queue, err := channel.QueueDeclare("", false, false, true, false, nil)
	check(err)
	return queue.Name
}

func consume(queue string, autoAck bool) <-chan amqp.Delivery {
	deliveries, err := channel.Consume(queue, "", autoAck, false, false, false, nil)
	check(err)
	return deliveries
}

func publish(exchange, key string, message amqp.Publishing) {
	check(channel.PublishWithContext(context.Background(), exchange, key, false, false, message))
}

func logs() {
	check(channel.ExchangeDeclare("logs", "fanout", false, false, false, false, nil))
}

func main() {
	command, text := os.Args[1], ""
	if len(os.Args) > 2 {
		text = os.Args[2]
	}
	connection, err := amqp.Dial(os.Getenv("AMQP_URL"))
	check(err)
	defer connection.Close()
	channel, err = connection.Channel()
	check(err)
	plain := amqp.Publishing{ContentType: "text/plain", Body: []byte(text)}

	switch command {
	case "rpc_client":
		plain.ReplyTo, plain.CorrelationId = exclusive(), "1"
		replies := consume(plain.ReplyTo, true)
		publish("", "rpc_queue", plain)
		for reply := range replies {
			if reply.CorrelationId == "1" {
				n, err := strconv.Atoi(string(reply.Body))
				check(err)
				fmt.Printf(" [.] Got %d\n", n)
				return
			}
		}
	case "rpc_server":
		durable("rpc_queue")
		check(channel.Qos(1, 0, false))
		requests := consume("rpc_queue", false)
		fmt.Println(" [x] Waiting")
		for request := range requests {
			n, err := strconv.Atoi(string(request.Body))
			check(err)
			publish("", request.ReplyTo, amqp.Publishing{
				ContentType: "text/plain", CorrelationId: request.CorrelationId, Body: []byte(strconv.Itoa(fib(n))),
			})
			request.Ack(false)
		}
	case "new_task":
		durable("task_queue")
		plain.DeliveryMode = amqp.Persistent
		publish("", "task_queue", plain)
	case "worker":
		durable("task_queue")
		check(channel.Qos(1, 0, false))
		tasks := consume("task_queue", false)
		fmt.Println(" [*] Waiting")
		for task := range tasks {
			fmt.Printf(" [x] Received %s\n", task.Body)
			task.Ack(false)
		}
	case "emit_log":
		logs()
		publish("logs", "", plain)
	case "receive_logs":
		logs()
		queue := exclusive()
		check(channel.QueueBind(queue, "", "logs", false, nil))
		lines := consume(queue, true)
		fmt.Println(" [*] Waiting")
		for line := range lines {
			fmt.Printf(" [x] %s\n", line.Body)
		}
	}
}
