# RabbitMQ's tutorials in Ruby, with bunny as they say: no content type is given, so it is bunny's application/octet-stream.
# ruby tutorials.rb rpc_client|rpc_server|new_task|worker|emit_log|receive_logs [TEXT]
# https://www.rabbitmq.com/tutorials/tutorial-six-ruby
require "bunny"
require "securerandom"

$stdout.sync = true
command, text = ARGV
connection = Bunny.new(ENV.fetch("AMQP_URL"), automatically_recover: false)
connection.start
channel = connection.create_channel
quorum = { durable: true, arguments: { "x-queue-type" => "quorum" } }

def fib(n)
  a, b = 0, 1
  n.times { a, b = b, a + b }
  a
end

case command
when "rpc_client"
  replies = channel.queue("", exclusive: true)
  id = SecureRandom.uuid
  answer = Queue.new
  replies.subscribe { |_, properties, payload| answer << payload if properties[:correlation_id] == id }
  channel.default_exchange.publish(text, routing_key: "rpc_queue", correlation_id: id, reply_to: replies.name)
  puts " [.] Got #{answer.pop}"
when "rpc_server"
  channel.prefetch(1)
  queue = channel.queue("rpc_queue", **quorum)
  puts " [x] Waiting"
  queue.subscribe(block: true, manual_ack: true) do |delivery, properties, payload|
    channel.default_exchange.publish(
      fib(payload.to_i).to_s, routing_key: properties.reply_to, correlation_id: properties.correlation_id
    )
    channel.ack(delivery.delivery_tag)
  end
when "new_task"
  queue = channel.queue("task_queue", **quorum)
  queue.publish(text, persistent: true)
when "worker"
  channel.prefetch(1)
  queue = channel.queue("task_queue", **quorum)
  puts " [*] Waiting"
  queue.subscribe(manual_ack: true, block: true) do |delivery, _properties, body|
    puts " [x] Received #{body}"
    channel.ack(delivery.delivery_tag)
  end
when "emit_log"
  channel.fanout("logs").publish(text)
when "receive_logs"
  queue = channel.queue("", exclusive: true)
  queue.bind(channel.fanout("logs"))
  puts " [*] Waiting"
  queue.subscribe(block: true) { |_delivery, _properties, body| puts " [x] #{body}" }
end
connection.close
