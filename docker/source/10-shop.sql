-- A small shop, for docker/compose.yaml.
CREATE SCHEMA shop;

CREATE TABLE shop.customers (
	id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name       text        NOT NULL,
	email      text        NOT NULL UNIQUE,
	created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE shop.products (
	id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name       text           NOT NULL,
	price      numeric(12, 2) NOT NULL,
	attributes jsonb          NOT NULL DEFAULT '{}'
);

CREATE TABLE shop.orders (
	id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	customer_id bigint      NOT NULL REFERENCES shop.customers,
	state       text        NOT NULL DEFAULT 'open',
	ordered_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE shop.order_lines (
	order_id   bigint  NOT NULL REFERENCES shop.orders ON DELETE CASCADE,
	line       integer NOT NULL,
	product_id bigint  NOT NULL REFERENCES shop.products,
	quantity   integer NOT NULL CHECK (quantity > 0),
	PRIMARY KEY (order_id, line)
);

INSERT INTO shop.customers (name, email)
SELECT 'Customer ' || n, 'customer' || n || '@shop.example' FROM generate_series(1, 10000) n;

INSERT INTO shop.products (name, price, attributes)
SELECT 'Product ' || n, (n % 500) + 0.99, jsonb_build_object('colour', (ARRAY['red', 'green', 'blue'])[n % 3 + 1])
FROM generate_series(1, 500) n;

INSERT INTO shop.orders (customer_id, state, ordered_at)
SELECT n % 10000 + 1, (ARRAY['open', 'paid', 'sent'])[n % 3 + 1], now() - n * interval '1 minute'
FROM generate_series(1, 50000) n;

INSERT INTO shop.order_lines (order_id, line, product_id, quantity)
SELECT o, l, (o + l) % 500 + 1, l FROM generate_series(1, 50000) o, generate_series(1, 3) l;

ANALYZE;
