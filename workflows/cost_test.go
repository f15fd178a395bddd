package workflows

import (
	"testing"

	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/analytics/bill"
)

func TestPrice(t *testing.T) {
	w := newWorld()
	w.once[contract.PriceHoursActivity] = []error{temporal.NewApplicationError("away", "AnalyticsStore")}
	env := environment(t, w)
	env.ExecuteWorkflow(Price, contract.PriceInput{Who: "ann", Dry: true})
	var r bill.Pricing
	if err := env.GetWorkflowResult(&r); err != nil || r.Hours != 3 || !r.Dry || w.count("PriceHours ann") != 2 || w.count("LookAtBudgets ") != 0 {
		t.Errorf("%+v, %v after %v", r, err, w.names())
	}
	env = environment(t, w)
	env.ExecuteWorkflow(Price, contract.PriceInput{Who: "bob"})
	if err := env.GetWorkflowResult(&r); err != nil || len(r.Budgets) != 1 || r.Budgets[0].Standing != bill.Near || w.count("LookAtBudgets ") != 1 {
		t.Errorf("%+v, %v after %v", r, err, w.names())
	}
	w = newWorld()
	w.fail[contract.PriceHoursActivity] = permanent("NoPrices")
	env = environment(t, w)
	env.ExecuteWorkflow(Price, contract.PriceInput{Who: "ann"})
	if err := env.GetWorkflowError(); errorType(err) != "NoPrices" || w.count("PriceHours ann") != 1 {
		t.Errorf("%v after %v", err, w.names())
	}
}

func TestPricesAndCost(t *testing.T) {
	w := newWorld()
	env := environment(t, w)
	env.ExecuteWorkflow(Prices, contract.PricesInput{Who: "ann", Text: "x"})
	var p contract.PricesResult
	if err := env.GetWorkflowResult(&p); err != nil || !p.Changed || p.Applied[0].Who != "ann" {
		t.Errorf("%+v, %v", p, err)
	}
	env = environment(t, w)
	env.ExecuteWorkflow(Cost, contract.CostInput{Pipeline: "shop"})
	var r bill.Report
	if err := env.GetWorkflowResult(&r); err != nil || r.Pipeline != "shop" || w.count("ReportCost shop") != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}
