ALTER TABLE shop.addresses   ADD FOREIGN KEY (customer_id) REFERENCES shop.customers ON DELETE CASCADE;
ALTER TABLE shop.inventory   ADD FOREIGN KEY (sku) REFERENCES shop."Products" ON UPDATE CASCADE ON DELETE CASCADE;
ALTER TABLE shop.orders      ADD FOREIGN KEY (customer_id) REFERENCES shop.customers;
ALTER TABLE shop.order_items ADD FOREIGN KEY (order_id) REFERENCES shop.orders ON DELETE CASCADE;
ALTER TABLE shop.payments    ADD FOREIGN KEY (order_id) REFERENCES shop.orders ON DELETE CASCADE;
ALTER TABLE shop.transfers   ADD FOREIGN KEY (payer) REFERENCES shop.accounts, ADD FOREIGN KEY (payee) REFERENCES shop.accounts;
CREATE INDEX ON shop.orders (customer_id);
CREATE INDEX ON shop.payments (order_id);
